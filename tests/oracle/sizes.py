#!/usr/bin/env python3
"""Compares models that compute sizes of their dimensions, with floats too, with ONNX Runtime, with dimensions left open and fixed.

    python sizes.py [NAME...] [--threads N]
"""

import sys

import numpy as np
import onnx
from onnx import TensorProto, helper

from compiled import compare_models

FLOAT, DOUBLE, INT64 = TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.INT64


class Model:
    """Nodes that read x [1,2,H,W]; `h`, `w` are its extents, of shape [1], `fh`, `fw` the same as floats."""

    def __init__(self):
        self.nodes, self.constants, self.results = [], [], []
        self.h, self.w = (self("Shape", "x", start=axis, end=axis + 1) for axis in (2, 3))
        self.fh, self.fw = (self("Cast", n, to=FLOAT) for n in (self.h, self.w))

    def __call__(self, op, *inputs, **attributes):
        """The name of the node's result; inputs are names or values of constants."""
        names = [self.constant(i) for i in inputs]
        self.nodes.append(helper.make_node(op, names, [f"v{len(self.nodes)}"], name=f"{op}_{len(self.nodes)}", **attributes))
        return self.nodes[-1].output[0]

    def constant(self, value):
        if isinstance(value, str):
            return value
        if not hasattr(value, "dtype"):
            value = np.asarray(value, np.float32 if any(isinstance(v, float) for v in np.ravel(value).tolist()) else np.int64)
        value = np.asarray(value)
        self.constants.append(onnx.numpy_helper.from_array(value, f"c{len(self.constants)}"))
        return self.constants[-1].name

    def whole(self, x):
        return self("Cast", x, to=INT64)

    def pixels(self, *extents):
        """x resized to these extents."""
        sizes = self("Concat", [1, 2], *extents, axis=0)
        return self("Resize", "x", "", "", sizes, mode="nearest", coordinate_transformation_mode="asymmetric",
                    nearest_mode="floor")

    def scaled(self, *scales):
        ones = self.constant(np.float32([1, 1]))
        return self("Resize", "x", "", self("Concat", ones, *scales, axis=0), mode="linear")


def by_factor(m, factor):
    return m.pixels(*(m.whole(m("Floor", m("Cast", m("Mul", f, [factor]), to=FLOAT))) for f in (m.fh, m.fw)))


def to_longest(m):
    """As preprocessing of detectors: the longer side becomes 20."""
    scale = m("Div", [20.0], m("Max", m.fh, m.fw))
    return m.pixels(*(m.whole(m("Add", m("Mul", f, scale), [0.5])) for f in (m.fh, m.fw)))


def quotients(m):
    """Scales that are quotients of extents."""
    return m.scaled(*(m("Div", m("Cast", m("Mul", n, [3]), to=FLOAT), f) for n, f in ((m.h, m.fh), (m.w, m.fw))))


def to_size(m):
    """Scales that reach a size."""
    return m.scaled(*(m("Div", m("Cast", m("Add", n, [3]), to=FLOAT), f) for n, f in ((m.h, m.fh), (m.w, m.fw))))


def rows(m):
    return m("Reshape", "x", m("Concat", [2, -1], m.w, axis=0))


def root(m):
    """The side of the largest square that the elements of a channel fill."""
    count = m("Mul", m.h, m.w)
    side = m.whole(m("Sqrt", m("Cast", count, to=FLOAT)))
    flat = m("Reshape", "x", m("Concat", [2, -1], axis=0))
    kept = m("Slice", flat, [0], m("Mul", side, side), [1])
    return m("Reshape", kept, m("Concat", [2], side, side, axis=0))


def share(m):
    """The first 0.7 of the columns, in double precision."""
    wide = m("Cast", m.w, to=DOUBLE)
    return m("Slice", rows(m), [0], m.whole(m("Mul", wide, np.float64([0.7]))), [2])


def padded(m):
    """Rows up to a multiple of 4, counted by a rounded quotient."""
    up = m("Mul", m("Ceil", m("Div", m.fh, [4.0])), [4.0])
    return m("Pad", "x", m("Concat", [0, 0, 0, 0, 0, 0], m("Sub", m.whole(up), m.h), [0], axis=0))


def padded_whole(m):
    """The same in integers, up to 4 rows where they are a multiple."""
    more = m("Sub", [4], m("Mod", m.h, [4]))
    return m("Pad", "x", m("Concat", [0, 0, 0, 0, 0, 0], more, [0], axis=0))


def halves(m):
    """Integers that may be negative before they are cut off."""
    start = m("Max", m("Div", m("Sub", m.w, [8]), [2]), [0])
    return m("Slice", rows(m), start, m("Add", start, [2]), [2])


def most(m):
    """The largest third."""
    count = m("Max", m.whole(m("Mul", m.fw, [0.33])), [1])
    m.nodes.append(helper.make_node("TopK", [rows(m), count], ["values", "places"], name="TopK_0"))
    return "values"


def positions(m):
    """Positions as floats."""
    one = m("Squeeze", m.fw, [0])
    numbers = m("Range", m.constant(np.float32(0)), one, m.constant(np.float32(1)))
    halved = m("Range", m.constant(np.float32(0)), m("Div", one, m.constant(np.float32(2))), m.constant(np.float32(0.5)))
    return m("Add", m("Mul", rows(m), numbers), m("Mul", halved, m.constant(np.float32(3))))


def chunks(m):
    """As many turns of a loop as there are chunks of 3 columns."""
    turns = m("Squeeze", m.whole(m("Ceil", m("Div", m.fw, [3.0]))), [0])
    inside = [helper.make_node("Identity", ["c"], ["on"]), helper.make_node("Mul", ["s", "factor"], ["grown"])]
    info = helper.make_tensor_value_info
    body = helper.make_graph(
        inside, "turn", [info("i", INT64, []), info("c", TensorProto.BOOL, []), info("s", FLOAT, None)],
        [info("on", TensorProto.BOOL, []), info("grown", FLOAT, None)], [helper.make_tensor("factor", FLOAT, [], [1.5])])
    return m("Loop", turns, "", rows(m), body=body)


MODELS = {
    "by 0.7": lambda m: by_factor(m, 0.7), "by 2": lambda m: by_factor(m, 2.0), "by 0.5": lambda m: by_factor(m, 0.5),
    "by 1.3": lambda m: by_factor(m, 1.3), "longest side": to_longest, "quotients": quotients, "to a size": to_size, "root": root,
    "share": share, "padded": padded, "padded by integers": padded_whole, "halves": halves, "most": most, "positions": positions,
    "chunks": chunks,
}
SIZES = [(10, 10), (7, 13), (4, 30), (2, 3), (25, 8)]


def model(build):
    m = Model()
    result = build(m)
    info = [helper.make_tensor_value_info("x", FLOAT, [1, 2, "H", "W"])]
    graph = helper.make_graph(m.nodes, "sizes", info, [onnx.ValueInfoProto(name=result)], m.constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def feeds(h, w):
    return f"{h}x{w}", {"x": np.random.default_rng(1).standard_normal((1, 2, h, w)).astype(np.float32)}


if __name__ == "__main__":
    runs = [feeds(*size) for size in SIZES]
    forms = [([], runs), (["--dim", f"H={SIZES[0][0]}", "--dim", f"W={SIZES[0][1]}"], runs[:1])]
    sys.exit(compare_models(__doc__, ((name, model(build), forms) for name, build in MODELS.items())))
