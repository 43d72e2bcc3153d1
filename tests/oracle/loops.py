#!/usr/bin/env python3
"""Compares control flow with ONNX Runtime: Scan, Loop, If on data, and recurrences that are written out.

    python loops.py [NAME...] [--threads N]

Batch and length are symbols of every model that has them; it is compiled once and run at three shapes. Of models that are
written out the number of kernels must not depend on the length.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from compiled import Checks, Compiled, Failed, call, compiler, outputs, session

FLOAT, INT, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL
SIZES = [{"B": 1, "T": 5, "P": 3}, {"B": 3, "T": 18, "P": 2}, {"B": 2, "T": 8, "P": 4}]
RANDOM = np.random.default_rng(11)
node, value = helper.make_node, helper.make_tensor_value_info


def weight(name, *shape):
    return numpy_helper.from_array((RANDOM.standard_normal(shape) * 0.4).astype(np.float32), name)


def number(name, x):
    return numpy_helper.from_array(np.array(x), name)


def model(name, nodes, inputs, results, weights=()):
    ins = [value(n, BOOL if n.startswith("use_") else FLOAT, shape) for n, shape in inputs.items()]
    graph = helper.make_graph(nodes, name, ins, [onnx.ValueInfoProto(name=r) for r in results], list(weights))
    return name, helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def graph(nodes, inputs, results, weights=()):
    """A body: `inputs` are (name, type, shape)."""
    outs = [onnx.ValueInfoProto(name=r) for r in results]
    for o in outs:
        o.type.tensor_type.elem_type = BOOL if o.name.startswith("cond") else FLOAT
    return helper.make_graph(nodes, "body", [value(*i) for i in inputs], outs, list(weights))


def scans():
    # A gated cell: products with the state, a weight and a tensor from around, two results, one of them unused.
    body = graph(
        [node("MatMul", ["h", "u"], ["hu"]), node("Add", ["hu", "x"], ["s"]), node("Tanh", ["s"], ["c"]),
         node("Sigmoid", ["s"], ["g"]), node("Sub", ["c", "h"], ["d"]), node("Mul", ["g", "d"], ["gd"]),
         node("Add", ["h", "gd"], ["h2"]), node("Mul", ["h2", "scale"], ["y"]), node("Neg", ["y"], ["z"])],
        [("h", FLOAT, ("B", 24)), ("x", FLOAT, ("B", 24))], ["h2", "y", "z"], [weight("u", 24, 24)])
    attrs = {"body": body, "num_scan_inputs": 1}
    inputs = {"h0": ("B", 24), "xs": ("T", "B", 24), "scale": ("B", 1)}
    yield model("scan", [node("Scan", ["h0", "xs"], ["last", "ys", "unread"], **attrs)], inputs, ["last", "ys"])
    inputs["xs"] = ("B", "T", 24)
    turned = node("Scan", ["h0", "xs"], ["last", "ys", "zs"], scan_input_axes=[1], scan_input_directions=[1],
                  scan_output_axes=[1, -1], scan_output_directions=[1, 0], **attrs)
    yield model("scan other axes and directions", [turned], inputs, ["last", "ys", "zs"])
    # A scan in a scan, and states that change places (by way of a node: ONNX Runtime mixes them up otherwise).
    inner = graph([node("Mul", ["s", "decay"], ["sd"]), node("Add", ["sd", "e"], ["s2"]), node("Identity", ["s2"], ["y"])],
                  [("s", FLOAT, (6,)), ("e", FLOAT, (6,))], ["s2", "y"], [number("decay", np.float32(0.5))])
    outer = graph([node("Scan", ["a", "rows"], ["a2", "all"], body=inner, num_scan_inputs=1),
                   node("ReduceSum", ["all", "axes"], ["sum"], keepdims=0), node("Neg", ["b"], ["nb"])],
                  [("a", FLOAT, (6,)), ("b", FLOAT, (6,)), ("rows", FLOAT, ("B", 6))], ["nb", "a2", "sum"],
                  [number("axes", [0])])
    yield model("scan in a scan", [node("Scan", ["a0", "b0", "xs"], ["p", "q", "r"], body=outer, num_scan_inputs=1)],
                {"a0": (6,), "b0": (6,), "xs": ("T", "B", 6)}, ["p", "q", "r"])


def loops():
    def body(nodes, results, weights=()):
        return graph([node("Identity", ["cond"], ["cond_out"]), *nodes],
                     [("i", INT, ()), ("cond", BOOL, ()), ("h", FLOAT, ("B", 8))], ["cond_out", *results], weights)

    weights = [number("trips", 7), number("true", True)]
    # The number of the iteration picks a row and is a factor; x is from around.
    picked = body([node("Gather", ["x", "i"], ["row"], axis=1), node("Cast", ["i"], ["f"], to=FLOAT),
                   node("Mul", ["row", "f"], ["p"]), node("Add", ["h", "p"], ["s"]), node("Tanh", ["s"], ["h2"]),
                   node("Identity", ["h2"], ["y"])], ["h2", "y"])
    made = [node("Loop", ["trips", "true", "h0"], ["last", "ys"], body=picked)]
    yield model("loop", made, {"h0": ("B", 8), "x": ("B", 7, 8)}, ["last", "ys"], weights)
    # As often as a tensor is long; no condition given.
    made = [node("Shape", ["x"], ["shape"]), node("Gather", ["shape", "one"], ["trips"]),
            node("Loop", ["trips", "", "h0"], ["last", "ys"], body=picked)]
    yield model("loop to a length", made, {"h0": ("B", 8), "x": ("B", "T", 8)}, ["last", "ys"], [number("one", 1)])
    # Copies, where states change their shapes: rows are doubled, collected from none on, and every second one is kept.
    def changed(op, results, more=()):
        return graph([node("Identity", ["cond"], ["cond_out"]), op], [("i", INT, ()), ("cond", BOOL, ()), ("h", FLOAT, None)],
                     ["cond_out", *results], more)

    three = number("three", 3)
    doubled = changed(node("Concat", ["h", "x"], ["h2"], axis=0), ["h2"])
    yield model("loop that collects rows", [node("Loop", ["three", "", "x"], ["last"], body=doubled)], {"x": ("B", 8)}, ["last"], [three])
    made = [node("Loop", ["three", "", "none"], ["last"], body=doubled)]
    yield model("loop that collects rows from none on", made, {"x": ("B", 8)}, ["last"],
                [three, numpy_helper.from_array(np.zeros((0, 8), np.float32), "none")])
    halved = changed(node("Slice", ["h", "from", "to", "from", "by"], ["h2"]), ["h2"],
                     [number("from", [0]), number("to", [1 << 40]), number("by", [2])])
    yield model("loop that drops rows", [node("Loop", ["three", "", "x"], ["last"], body=halved)], {"x": ("T", 8)}, ["last"], [three])
    # Newton's iteration, without anything that is stacked.
    newton = body([node("Mul", ["h", "h"], ["hh"]), node("Mul", ["hh", "x"], ["q"]), node("Sub", ["three", "q"], ["r"]),
                   node("Mul", ["h", "r"], ["t"]), node("Mul", ["t", "half"], ["h2"])], ["h2"],
                  [number("three", np.float32(3)), number("half", np.float32(0.5))])
    made = [node("Abs", ["x0"], ["x1"]), node("Add", ["x1", "c"], ["x"]), node("Reciprocal", ["x"], ["h0"]),
            node("Loop", ["trips", "true", "h0"], ["last"], body=newton)]
    yield model("loop without slices", made, {"x0": ("B", 8)}, ["last"], [*weights, number("c", np.float32(1))])


def endings():
    """Loops that data ends: `while i < n`, convergence, decoding up to an end token."""
    head = [("i", INT, ()), ("cond", BOOL, ()), ("h", FLOAT, ("B", 8))]
    many, true = number("many", np.iinfo(np.int64).max), number("true", True)
    # Until the norm is below a threshold; what each step had is stacked where there is a largest number of steps.
    small = [node("Mul", ["h", "half"], ["h2"]), node("Abs", ["h2"], ["size"]), node("ReduceMax", ["size"], ["norm"], keepdims=0),
             node("Greater", ["norm", "least"], ["cond_out"])]
    constants = [number("half", np.float32(0.5)), number("least", np.float32(0.1))]
    body = graph(small, head, ["cond_out", "h2"], constants)
    for name, trips, condition in [("", "", "true"), (" with many", "many", ""), (" at most 3", "three", "true")]:
        made = [node("Loop", [trips, condition, "h0"], ["last"], body=body), node("Neg", ["last"], ["negative"])]
        yield model("loop to convergence" + name, made, {"h0": ("B", 8)}, ["last", "negative"], [many, true, number("three", 3)])
    body = graph([*small, node("ReduceMean", ["h", "axis"], ["y"], keepdims=0)], head, ["cond_out", "h2", "y"],
                 [*constants, number("axis", [-1])])
    made = [node("Loop", ["ten", "true", "h0"], ["last", "ys"], body=body), node("Shape", ["ys"], ["n"]),
            node("ReduceSum", ["ys", "first"], ["sum"], keepdims=0)]
    yield model("loop to convergence, stacked", made, {"h0": ("B", 8)}, ["last", "ys", "n", "sum"],
                [number("ten", 10), true, number("first", [0])])
    # As often as a tensor is long, and no further than a threshold; the first condition is data too.
    made = [node("Shape", ["x"], ["shape"]), node("Gather", ["shape", "one"], ["trips"]), node("Abs", ["x"], ["ax"]), node("ReduceSum", ["ax"], ["total"], keepdims=0),
            node("Greater", ["total", "zero"], ["start"]), node("Loop", ["trips", "start", "h0"], ["last", "ys"], body=body)]
    yield model("loop to convergence within a length", made, {"h0": ("B", 8), "x": ("B", "T")}, ["last", "ys"],
                [number("one", 1), number("zero", np.float32(0))])
    # How often is data, and a loop of the same kind is inside: the number of steps differs each time.
    inner = graph([node("Mul", ["g", "growth"], ["g2"]), node("ReduceMax", ["g2"], ["top"], keepdims=0),
                   node("Less", ["top", "limit"], ["cond_in"])], [("j", INT, ()), ("cond_j", BOOL, ()), ("g", FLOAT, ("B", 8))],
                  ["cond_in", "g2"], [number("growth", np.float32(1.5)), number("limit", np.float32(9))])
    outer = graph([node("Identity", ["cond"], ["cond_out"]), node("Abs", ["h"], ["a"]), node("Add", ["a", "bit"], ["b"]),
                   node("Loop", ["", "true", "b"], ["grown"], body=inner), node("Mul", ["grown", "part"], ["h2"])],
                  head, ["cond_out", "h2"], [number("bit", np.float32(0.01)), number("part", np.float32(0.3))])
    made = [node("Abs", ["x"], ["ax"]), node("ReduceMax", ["ax"], ["most"], keepdims=0), node("Ceil", ["most"], ["up"]),
            node("Cast", ["up"], ["n"], to=INT), node("Loop", ["n", "", "h0"], ["last"], body=outer)]
    yield model("loop in a loop, both as often as data says", made, {"h0": ("B", 8), "x": ("B", "T")}, ["last"], [true])
    # Greedy decoding: the largest score becomes the next token, and the third token ends it.
    step = [node("Gather", ["table", "token"], ["e"], axis=0), node("Add", ["h", "e"], ["s"]), node("Tanh", ["s"], ["h2"]),
            node("MatMul", ["h2", "scores"], ["logits"]), node("ReduceSum", ["logits", "rows"], ["one"], keepdims=0),
            node("ArgMax", ["one"], ["next"], axis=-1, keepdims=0), node("Equal", ["next", "end"], ["ended"]),
            node("Not", ["ended"], ["cond_out"]), node("Cast", ["next"], ["said"], to=FLOAT)]
    body = graph(step, [*head, ("token", INT, ())], ["cond_out", "h2", "next", "said"],
                 [weight("table", 5, 8), weight("scores", 8, 5), number("end", 3), number("rows", [0])])
    body.output[2].type.tensor_type.elem_type = INT
    made = [node("Loop", ["twenty", "true", "h0", "start"], ["last", "token", "text"], body=body), node("Cast", ["token"], ["t"], to=FLOAT)]
    yield model("greedy decoding", made, {"h0": ("B", 8)}, ["last", "t", "text"], [number("twenty", 20), true, number("start", 0)])


def lists():
    """As `torch.jit.script` writes loops over the length of a tensor: lists that are cut and appended to, and slices that move."""
    head = [("i", INT, ()), ("cond", BOOL, ()), ("h", FLOAT, ("B", 8))]
    states = [*(value(*i) for i in head), helper.make_tensor_sequence_value_info("ys", FLOAT, None)]
    step = [node("Identity", ["cond"], ["cond_out"]), node("SequenceAt", ["rows", "i"], ["row"]), node("Add", ["h", "row"], ["s"]),
            node("Tanh", ["s"], ["h2"]), node("SequenceInsert", ["ys", "h2"], ["more"])]
    body = graph(step, [], ["cond_out", "h2", "more"])
    body.input.extend(states)
    body.output[2].CopyFrom(helper.make_tensor_sequence_value_info("more", FLOAT, None))
    made = [node("SplitToSequence", ["x"], ["rows"], axis=1, keepdims=0), node("SequenceLength", ["rows"], ["n"]),
            node("SequenceEmpty", [], ["none"]), node("Loop", ["n", "", "h0", "none"], ["last", "all"], body=body),
            node("ConcatFromSequence", ["all"], ["stack"], axis=1, new_axis=1),
            node("ConcatFromSequence", ["all"], ["wide"], axis=-1), node("SequenceAt", ["all", "end"], ["final"])]
    yield model("loop over lists", made, {"h0": ("B", 8), "x": ("B", "T", 8)}, ["last", "stack", "wide", "final"],
                [number("end", -1)])
    steps = [node("Identity", ["cond"], ["cond_out"]), node("Unsqueeze", ["i", "axis0"], ["from"]),
             node("Add", ["i", "two"], ["next"]), node("Unsqueeze", ["next", "axis0"], ["to"]),
             node("Slice", ["x", "from", "to", "axis"], ["part"]), node("ReduceMean", ["part", "axis"], ["mean"], keepdims=0),
             node("Mul", ["h", "mean"], ["hm"]), node("Sub", ["hm", "mean"], ["h2"])]
    body = graph(steps, head, ["cond_out", "h2"], [number("axis0", [0]), number("axis", [1]), number("two", 2)])
    made = [node("Shape", ["x"], ["shape"]), node("Gather", ["shape", "one"], ["t"]), node("Sub", ["t", "one"], ["n"]),
            node("Loop", ["n", "", "h0"], ["last"], body=body)]
    yield model("loop of moving slices", made, {"h0": ("B", 8), "x": ("B", "T", 8)}, ["last"], [number("one", 1)])


def branches():
    # Whether the first element is above the mean: both answers come up.
    index = lambda name, v: numpy_helper.from_array(np.array(v, np.int64), name)
    ask = [node("ReduceMean", ["x"], ["mean"], keepdims=0),
           node("Reshape", ["x", "flat"], ["all"]), node("Gather", ["all", "zero"], ["first"]),
           node("Greater", ["first", "mean"], ["cond"])]
    weights = [index("flat", [-1]), index("zero", 0)]
    bare = lambda nodes, results, inits=(): graph(nodes, [], results, list(inits))
    yes = bare([node("MatMul", ["x", "w"], ["a"]), node("Tanh", ["a"], ["ay"])], ["a", "ay"], [weight("w", 6, 6)])
    no = bare([node("Neg", ["x"], ["b"]), node("Sub", ["b", "mean"], ["by"])], ["b", "by"])
    inputs = {"x": ("B", "T", 6)}
    made = node("If", ["cond"], ["r", "s"], then_branch=yes, else_branch=no)
    yield model("if", [*ask, made, node("Add", ["r", "s"], ["y"])], inputs, ["y", "r"], weights)
    # One inside of the other, and one in a loop.
    inner = node("If", ["cond2"], ["e"], then_branch=bare([node("Abs", ["x"], ["e1"])], ["e1"]),
                 else_branch=bare([node("Neg", ["x"], ["e2"])], ["e2"]))
    yes = bare([node("ReduceMax", ["x"], ["most"], keepdims=0), node("Less", ["most", "two"], ["cond2"]), inner], ["e"])
    no = bare([node("Identity", ["x"], ["f"])], ["f"])
    outer = node("If", ["cond"], ["y"], then_branch=yes, else_branch=no)
    yield model("if_nested", [*ask, outer], inputs, ["y"], [*weights, number("two", np.float32(2))])
    step = [node("ReduceSum", ["slice"], ["sum"], keepdims=0), node("Greater", ["sum", "none"], ["cond1"]),
            node("If", ["cond1"], ["h2"], then_branch=bare([node("Add", ["h", "slice"], ["h3"])], ["h3"]),
                 else_branch=bare([node("Mul", ["h", "half"], ["h4"])], ["h4"]))]
    body = graph(step, [("h", FLOAT, ("B", 6)), ("slice", FLOAT, ("B", 6))], ["h2"])
    loop = node("Scan", ["h0", "xs"], ["last"], body=body, num_scan_inputs=1)
    inputs = {"h0": ("B", 6), "xs": ("T", "B", 6)}
    yield model("if_in_a_loop", [loop], inputs, ["last"], [number("none", np.float32(0)), number("half", np.float32(0.5))])


def branches_of_other_ranks():
    """Where all that reads a value broadcasts, branches may leave out its first axes of extent 1."""
    index = lambda name, v: numpy_helper.from_array(np.array(v, np.int64), name)
    bare = lambda nodes, results, inits=(): graph(nodes, [], results, list(inits))
    ask = [node("ReduceMean", ["x"], ["mean"], keepdims=0),
           node("Reshape", ["x", "flat"], ["all"]), node("Gather", ["all", "zero"], ["first"]),
           node("Greater", ["first", "mean"], ["cond"])]
    weights = [index("flat", [-1]), index("zero", 0), index("axis", [0]), index("one", [1])]
    scalar = [node("Abs", ["mean"], ["step1"])]
    one = [node("Mul", ["mean", "mean"], ["square"]), node("Reshape", ["square", "one"], ["step2"])]
    whole = [node("ReduceMax", ["x", "axis"], ["most"], keepdims=1)]
    row = [node("ReduceMin", ["x", "axis"], ["least"], keepdims=0)]
    yes, no = bare(scalar + whole, ["step1", "most"]), bare(one + row, ["step2", "least"])
    inputs = {"x": ("B", "T", 6)}
    for name, then, other in [("fewer", yes, no), ("more", no, yes)]:
        use = [node("If", ["cond"], ["step", "row"], then_branch=then, else_branch=other),
               node("Exp", ["step"], ["grown"]), node("Add", ["grown", "step"], ["sum"]), node("CastLike", ["sum", "row"], ["like"]),
               node("CastLike", ["x", "step"], ["x2"]), node("Mul", ["like", "row"], ["product"]), node("Sub", ["x2", "product"], ["y"])]
        yield model(f"if, {name} axes", [*ask, *use], inputs, ["y"], weights)
    # Of nothing, and as a bound.
    none, some = np.zeros((0,), np.float32), np.ones((1, 3), np.float32)
    then = bare([node("Identity", ["none"], ["n"]), node("Neg", ["mean"], ["low"])], ["n", "low"], [numpy_helper.from_array(none, "none")])
    other = bare([node("Identity", ["some"], ["s"]), node("Reshape", ["mean", "one"], ["high"])], ["s", "high"],
                 [numpy_helper.from_array(some, "some")])
    use = [node("If", ["cond"], ["few", "bound"], then_branch=then, else_branch=other), node("Add", ["few", "column"], ["y"]),
           node("Clip", ["x", "bound"], ["z"]), node("Clip", ["mean", "edge"], ["w"])]
    columns = [numpy_helper.from_array(np.ones((2, 1), np.float32), "column"), numpy_helper.from_array(np.ones(1, np.float32), "edge")]
    yield model("if, no rows", [*ask, *use], inputs, ["y", "z", "w"], weights + columns)


def branches_of_other_shapes():
    """Where inputs and shapes decide, branches may give other extents."""
    index = lambda name, v: numpy_helper.from_array(np.array(v, np.int64), name)
    bare = lambda nodes, results, inits=(): graph(nodes, [], results, list(inits))
    # A merged decoder: with the rows that were before, or without.
    yes = bare([node("MatMul", ["x", "w"], ["k1"]), node("Concat", ["past", "k1"], ["with_past"], axis=1),
                node("ReduceSum", ["with_past", "rows"], ["s1"], keepdims=0)], ["with_past", "s1"])
    no = bare([node("MatMul", ["x", "w"], ["k2"]), node("Tanh", ["k2"], ["without"]),
               node("ReduceMax", ["without", "rows"], ["s2"], keepdims=0)], ["without", "s2"])
    made = [node("If", ["use_past"], ["present", "s"], then_branch=yes, else_branch=no), node("Neg", ["present"], ["y"])]
    yield model("if, merged decoder", made, {"x": ("B", "T", 6), "past": ("B", "P", 6), "use_past": (1,)}, ["present", "s", "y"],
                [weight("w", 6, 6), index("rows", [1])])
    # Rows up to a multiple of 4, where they are none.
    yes = bare([node("Sub", ["four", "rest"], ["more"]), node("Concat", ["zeros", "more", "zero"], ["pads"], axis=0),
                node("Pad", ["x", "pads"], ["padded"])], ["padded"])
    no = bare([node("Identity", ["x"], ["same"])], ["same"])
    made = [node("Shape", ["x"], ["rows"], start=1, end=2), node("Mod", ["rows", "four"], ["rest"]),
            node("Greater", ["rest", "zero"], ["is_odd"]), node("If", ["is_odd"], ["p"], then_branch=yes, else_branch=no),
            node("Abs", ["p"], ["y"])]
    yield model("if, padded", made, {"x": ("B", "T", 6)}, ["y"],
                [index("four", [4]), index("zero", [0]), index("zeros", [0, 0, 0, 0])])


def written_out(name, steps, cell, states, weights):
    """`cell(t, x, states)` gives nodes, the next states and the result of a step."""
    nodes, results, state = [], [], list(states)
    indices = [number(f"t{t}", t) for t in range(steps)]
    for t in range(steps):
        nodes.append(node("Gather", ["x", f"t{t}"], [f"x{t}"], axis=1))
        more, state, y = cell(t, f"x{t}", state)
        nodes += [*more, node("Unsqueeze", [y, "one"], [f"{y}_u"])]
        results.append(f"{y}_u")
    nodes.append(node("Concat", results, ["y"], axis=1))
    inputs = {"x": ("B", steps, 16)} | {s: ("B", 16) for s in states}
    return model(f"{name} {steps}", nodes, inputs, ["y", *state], [*weights, *indices, number("one", [1])])


def gru(steps):
    def cell(t, x, states):
        (h,), n = states, lambda s: f"{s}{t}"
        nodes = [node("MatMul", [x, "w"], [n("xw")]), node("Add", [n("xw"), "b"], [n("xb")]),
                 node("MatMul", [h, "u"], [n("hu")]),
                 node("Split", [n("xb")], [n("xr"), n("xz"), n("xn")], axis=1, num_outputs=3),
                 node("Split", [n("hu")], [n("hr"), n("hz"), n("hn")], axis=1, num_outputs=3),
                 node("Add", [n("xr"), n("hr")], [n("ra")]), node("Sigmoid", [n("ra")], [n("r")]),
                 node("Add", [n("hz"), n("xz")], [n("za")]), node("Sigmoid", [n("za")], [n("z")]),
                 node("Mul", [n("r"), n("hn")], [n("rn")]), node("Add", [n("xn"), n("rn")], [n("na")]),
                 node("Tanh", [n("na")], [n("n")]), node("Sub", [h, n("n")], [n("d")]),
                 node("Mul", [n("z"), n("d")], [n("zd")]), node("Add", [n("n"), n("zd")], [n("h")])]
        return nodes, [n("h")], n("h")

    return written_out("GRU cells", steps, cell, ["h"], [weight("w", 16, 48), weight("b", 48), weight("u", 16, 48)])


def lif(steps):
    """Leaky neurons that fire and are reset."""
    def cell(t, x, states):
        (v,), n = states, lambda s: f"{s}{t}"
        nodes = [node("Sub", [x, v], [n("d")]), node("Div", [n("d"), "tau"], [n("dv")]), node("Add", [v, n("dv")], [n("v")]),
                 node("GreaterOrEqual", [n("v"), "threshold"], [n("fired")]), node("Cast", [n("fired")], [n("s")], to=FLOAT),
                 node("Where", [n("fired"), "zero", n("v")], [n("reset")])]
        return nodes, [n("reset")], n("s")

    constants = [number("tau", np.float32(2)), number("threshold", np.float32(0.6)), number("zero", np.float32(0))]
    return written_out("spiking neurons", steps, cell, ["v"], constants)


def kernels(path):
    said = json.loads(call([compiler(), "inspect", path, "--optimized", "--json"]))
    return said["kernels"], said["steps"]


def check(checks, threads, name, made):
    """All shapes against ONNX Runtime; gives the counts of kernels and steps."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        onnx.save(made, path)
        reference = session(path, threads)
        try:
            compiled = Compiled(path, folder)
            for sizes in SIZES:
                feeds = {}
                for i in made.graph.input:
                    shape = [sizes.get(d.dim_param, d.dim_value) for d in i.type.tensor_type.shape.dim]
                    feeds[i.name] = RANDOM.standard_normal(shape).astype(np.float32)
                    if i.type.tensor_type.elem_type == BOOL:
                        feeds[i.name] = np.full(shape, sizes["B"] > 1)
                got = compiled.run(feeds, threads)
                checks.matches(f"{name} {','.join(f'{k}={v}' for k, v in sizes.items())}", got, outputs(reference, feeds))
            return kernels(path)
        except Failed as error:
            checks.add(False, f"{name}: {error}")
            return None


def main():
    ap = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    ap.add_argument("names", nargs="*", help="only models whose names contain one of these")
    ap.add_argument("--threads", type=int, default=2)
    args = ap.parse_args()
    checks = Checks()
    wanted = lambda name: not args.names or any(n in name for n in args.names)
    for family in [scans, loops, endings, lists, branches, branches_of_other_ranks, branches_of_other_shapes]:
        for name, made in family():
            if wanted(name):
                check(checks, args.threads, name, made)
    for family in [gru, lif]:
        few, many = family(12), family(40)
        if wanted(few[0]):
            counts = [check(checks, args.threads, *f) for f in [few, many]]
            checks.add(counts[0] is not None and counts[0] == counts[1], f"{few[0]} and {many[0]}: kernels and calls {counts}")
    return checks.code()


if __name__ == "__main__":
    sys.exit(main())
