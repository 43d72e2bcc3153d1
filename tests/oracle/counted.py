#!/usr/bin/env python3
"""Compares models whose results are as long as data says with ONNX Runtime, with dimensions left open and fixed.

    python counted.py [NAME...] [--threads N]
"""

import sys

import numpy as np
import onnx
from onnx import TensorProto, helper

from compiled import compare_models

# Nodes of models that read x [A,B] and y [A,B,4] and give the named results.
MODELS = {
    "coordinates": ([("NonZero", ["x"], ["n"], {})], ["n"]),
    "gathered": ([
        ("NonZero", ["x"], ["n"], {}), ("Transpose", ["n"], ["t"], {"perm": [1, 0]}), ("GatherND", ["y", "t"], ["g"], {}),
        ("Exp", ["g"], ["e"], {}), ("ReduceSum", ["g", "axis0"], ["s"], {"keepdims": 0}),
    ], ["e", "s"]),
    "twice": ([
        ("NonZero", ["x"], ["n"], {}), ("Gather", ["n", "index1"], ["c"], {"axis": 0}), ("Cast", ["c"], ["f"], {"to": TensorProto.FLOAT}),
        ("NonZero", ["f"], ["m"], {}), ("Squeeze", ["m", "axis0"], ["k"], {}), ("Gather", ["f", "k"], ["r"], {"axis": 0}),
    ], ["r", "k"]),
    "scattered": ([
        ("NonZero", ["x"], ["n"], {}), ("Transpose", ["n"], ["t"], {"perm": [1, 0]}), ("GatherND", ["y", "t"], ["g"], {}),
        ("Neg", ["g"], ["h"], {}), ("ScatterND", ["y", "t", "h"], ["z"], {}),
    ], ["z"]),
    "products": ([
        ("NonZero", ["x"], ["n"], {}), ("Transpose", ["n"], ["t"], {"perm": [1, 0]}), ("GatherND", ["y", "t"], ["g"], {}),
        ("Transpose", ["g"], ["gt"], {"perm": [1, 0]}), ("MatMul", ["g", "gt"], ["p"], {}), ("Softmax", ["p"], ["q"], {"axis": 1}),
        ("MatMul", ["q", "g"], ["r"], {}), ("Shape", ["g"], ["size"], {}),
    ], ["r", "size"]),
}


def doubled():
    """A body: `h` twice, and what it was."""
    nodes = [helper.make_node("Identity", ["c"], ["on"]), helper.make_node("Add", ["h", "h"], ["h2"]),
             helper.make_node("Neg", ["h"], ["was"])]
    info = helper.make_tensor_value_info
    inputs = [info("i", TensorProto.INT64, []), info("c", TensorProto.BOOL, []), info("h", TensorProto.FLOAT, ["K", 4])]
    outputs = [info("on", TensorProto.BOOL, []), *(info(n, TensorProto.FLOAT, ["K", 4]) for n in ("h2", "was"))]
    return helper.make_graph(nodes, "doubled", inputs, outputs)


ROWS = MODELS["gathered"][0][:3]
MODELS |= {
    # States of loops, which lie in two halves of memory, are as long as is counted.
    "looped": ([*ROWS, ("Loop", ["index3", "", "g"], ["last", "all"], {"body": doubled()})], ["last", "all"]),
    "suppressed": ([
        *ROWS, ("Unsqueeze", ["g", "axis0"], ["boxes"], {}), ("ReduceMax", ["g", "axis1"], ["best"], {"keepdims": 0}),
        ("Unsqueeze", ["best", "axes01"], ["scores"], {}),
        ("NonMaxSuppression", ["boxes", "scores", "index9", "overlap"], ["kept"], {}),
        ("Gather", ["kept", "index2"], ["which"], {"axis": 1}), ("Gather", ["g", "which"], ["left"], {"axis": 0}),
    ], ["left", "kept"]),
    # The count as a number, for what would share a kernel with what is counted.
    "divided by the count": ([
        ("Softmax", ["x"], ["a"], {"axis": 1}), ("ReduceMean", ["a", "axis1"], ["m"], {}), ("Greater", ["a", "m"], ["flags"], {}),
        ("NonZero", ["flags"], ["n"], {}), ("Shape", ["n"], ["both"], {}), ("Gather", ["both", "index1"], ["count"], {"axis": 0}),
        ("Cast", ["count"], ["number"], {"to": TensorProto.FLOAT}), ("Div", ["a", "number"], ["d"], {}), ("Exp", ["d"], ["e"], {}),
    ], ["e"]),
    "only the count": ([
        ("NonZero", ["x"], ["n"], {}), ("Shape", ["n"], ["both"], {}), ("Slice", ["both", "axis1", "two"], ["count"], {}),
        ("Mod", ["count", "two"], ["rest"], {}), ("Expand", ["half", "rest"], ["e"], {}), ("ReduceSum", ["e"], ["s"], {}),
    ], ["count", "s"]),
    # Nothing that the count is made of is read behind it.
    "suppressed only": ([
        *ROWS, ("Unsqueeze", ["g", "axis0"], ["boxes"], {}), ("ReduceMax", ["g", "axis1"], ["best"], {"keepdims": 0}),
        ("Unsqueeze", ["best", "axes01"], ["scores"], {}),
        ("NonMaxSuppression", ["boxes", "scores", "index9", "overlap"], ["kept"], {}),
    ], ["kept"]),
}
SHARES = [0.5, 0.0, 1.0]  # of the elements of x that are not 0


def model(name, nodes, results):
    info = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["A", "B"]),
            helper.make_tensor_value_info("y", TensorProto.FLOAT, ["A", "B", 4])]
    index = lambda n: helper.make_tensor(f"index{n}", TensorProto.INT64, [], [n])
    constants = [helper.make_tensor("axis0", TensorProto.INT64, [1], [0]), helper.make_tensor("axis1", TensorProto.INT64, [1], [1]),
                 helper.make_tensor("axes01", TensorProto.INT64, [2], [0, 1]),
                 helper.make_tensor("overlap", TensorProto.FLOAT, [1], [0.5]), helper.make_tensor("half", TensorProto.FLOAT, [1], [0.5]),
                 helper.make_tensor("two", TensorProto.INT64, [1], [2]), *map(index, (1, 2, 3, 9))]
    nodes = [helper.make_node(op, reads, gives, name=f"{op}_{i}", **attrs) for i, (op, reads, gives, attrs) in enumerate(nodes)]
    graph = helper.make_graph(nodes, name, info, [onnx.ValueInfoProto(name=r) for r in results], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def feeds(share):
    random = np.random.default_rng(1)
    x = (random.random((5, 7)) < share).astype(np.float32)
    return f"{share} set", {"x": x, "y": random.standard_normal((5, 7, 4)).astype(np.float32)}


if __name__ == "__main__":
    runs = [feeds(share) for share in SHARES]
    forms = [([], runs), (["--dim", "A=5", "--dim", "B=7"], runs)]
    sys.exit(compare_models(__doc__, ((name, model(name, *m), forms) for name, m in MODELS.items())))
