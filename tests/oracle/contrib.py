#!/usr/bin/env python3
"""Compares the operators that ONNX Runtime's optimizers write with ONNX Runtime itself, one small model per form.

    python contrib.py [NAME...] [--threads N]

Batch and lengths are symbols of every model; it is compiled once and run at two shapes.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from compiled import MATCH, Checks, Compiled, Failed, difference, outputs, session

DOMAIN = "com.microsoft"
TYPES = {"float32": TensorProto.FLOAT, "int32": TensorProto.INT32, "int64": TensorProto.INT64}

# Batch, queries, keys, old keys, and old and new ones: small, and odd and beyond a vector.
SIZES = [{"B": 1, "S": 4, "L": 6, "P": 3, "T": 7}, {"B": 3, "S": 19, "L": 23, "P": 8, "T": 27}]
RANDOM = np.random.default_rng(7)


class Made:
    """An input that is not just normal floats: `make(sizes)` gives its values."""

    def __init__(self, shape, make, dtype="int32"):
        self.shape, self.make, self.dtype = shape, make, dtype


def weight(*shape):
    return (RANDOM.standard_normal(shape) * 0.5).astype(np.float32)


def extents(shape, sizes):
    """Numbers for letters."""
    return [sizes.get(d, d) for d in shape]


def below(limit, *shape, dtype="int32"):
    """Random integers from 0 up to the limit."""
    return Made(shape, lambda s: RANDOM.integers(0, limit, extents(shape, s)).astype(dtype), dtype)


def lengths(most):
    """A number from 1 to `most` for each batch."""
    return Made(("B",), lambda s: RANDOM.integers(1, extents([most], s)[0] + 1, s["B"]).astype(np.int32))


def case(name, op, operands, results=1, domain=DOMAIN, before=(), more=None, read=None, **attrs):
    """A model of one node (and of nodes before it that make an operand): (name, model, inputs).

    Operands are shapes of inputs, arrays for weights, `Made`, names of values of `before`, or `None`. `more` are inputs
    for `before`; `read` are the results that are compared, all by default."""
    weights, names, made = [], [], dict(more or {})
    for i, operand in enumerate(operands):
        if operand is None or isinstance(operand, str):
            names.append(operand or "")
            continue
        names.append(f"x{i}")
        if isinstance(operand, np.ndarray):
            weights.append(numpy_helper.from_array(operand, f"x{i}"))
            continue
        if not isinstance(operand, Made):
            shape = operand
            operand = Made(shape, lambda s, shape=shape: RANDOM.standard_normal(extents(shape, s)), "float32")
        made[f"x{i}"] = operand
    inputs = [helper.make_tensor_value_info(name, TYPES[m.dtype], m.shape) for name, m in made.items()]
    read = range(results) if read is None else read
    results = [f"y{i}" if i in read else "" for i in range(results)]
    node = helper.make_node(op, names, results, domain=domain, **attrs)
    info = [onnx.ValueInfoProto(name=r) for r in results if r]
    graph = helper.make_graph([*before, node], name, inputs, info, weights)
    opsets = [helper.make_opsetid("", 23), helper.make_opsetid(DOMAIN, 1)]
    return name, helper.make_model(graph, opset_imports=opsets, ir_version=10), made


def activations():
    yield case("FastGelu", "FastGelu", [("B", "S", 33)])
    yield case("FastGelu bias", "FastGelu", [("B", "S", 33), weight(33)])
    yield case("BiasGelu", "BiasGelu", [("B", "S", 33), weight(33)])
    yield case("QuickGelu", "QuickGelu", [("B", "S", 33)])
    yield case("QuickGelu alpha", "QuickGelu", [("B", "S", 33)], alpha=1.0)
    yield case("Gelu", "Gelu", [("B", "S", 33)])


def norms():
    x, w = ("B", "S", 33), lambda: weight(33)
    op = "SkipLayerNormalization"
    yield case(op, op, [x, x, w(), w()], epsilon=1e-5)
    yield case(f"{op} sum", op, [x, x, w(), w(), w()], 4, read=[0, 3])
    yield case(f"{op} broadcast", op, [x, ("S", 33), w(), None, w()], epsilon=1e-5)
    op = "SkipSimplifiedLayerNormalization"
    yield case(op, op, [x, x, w()], epsilon=1e-5)
    yield case(f"{op} sum", op, [x, x, w(), w()], 4, read=[0, 3])
    op = "SimplifiedLayerNormalization"
    yield case(op, op, [x, w()], domain="", axis=-1, epsilon=1e-6, stash_type=1)
    op = "EmbedLayerNormalization"
    ids, tables = ("B", "S"), [weight(40, 33), weight(30, 33)]
    yield case(op, op, [below(40, *ids), None, *tables, None, w(), w()], 2)
    all_ = [below(40, *ids), below(2, *ids), *tables, weight(2, 33), w(), w(), below(2, *ids)]
    yield case(f"{op} segments", op, all_, 3, epsilon=1e-5)
    yield case(f"{op} positions", op, [*all_, below(30, *ids)], 2, epsilon=1e-5)


def products():
    op = "FusedMatMul"
    yield case(f"{op} alpha", op, [("B", "S", 16), ("B", 16, "L")], alpha=0.125)
    yield case(f"{op} transB", op, [("B", "S", 16), ("B", "L", 16)], transB=1, alpha=0.5)
    yield case(f"{op} transA", op, [("B", 16, "S"), weight(16, 9)], transA=1)
    yield case(f"{op} batches", op, [("S", "B", 16), ("L", "B", 16)], transB=1, transBatchA=1, transBatchB=1)
    yield case(f"{op} all", op, [(16, "B", "S"), (16, "B", "L")], transA=1, transBatchA=1, transBatchB=1)
    op, x = "FusedGemm", ("S", 16)
    for activation in ["Relu", "Tanh", "Sigmoid"]:
        yield case(f"{op} {activation}", op, [x, weight(9, 16), weight(9)], transB=1, alpha=0.5, activation=activation)
    op, x = "FusedConv", ("B", 8, "S", "L")
    for activation, params in [
        ("Relu", None), ("Tanh", None), ("Sigmoid", None), ("LeakyRelu", [0.2]), ("Clip", [0.0, 6.0]),
        ("HardSigmoid", [0.2, 0.5]),
    ]:
        attrs = {"activation_params": params} if params else {}
        yield case(f"{op} {activation}", op, [x, weight(16, 8, 3, 3), weight(16)],
                   activation=activation, kernel_shape=[3, 3], pads=[1, 1, 1, 1], **attrs)
    yield case(f"{op} sum", op, [x, weight(16, 8, 1, 1), weight(16), ("B", 16, "S", "L")], activation="Relu")
    yield case(f"{op} depthwise", op, [x, weight(8, 1, 3, 3)], activation="Relu", group=8, strides=[2, 2])
    op = "MatMulNBits"
    for bits in [4, 8]:
        for k, block in [(64, 32), (80, 32), (48, 16)]:
            blocks = -(-k // block)
            attrs = {"K": k, "N": 24, "bits": bits, "block_size": block}
            packed = RANDOM.integers(0, 256, (24, blocks, block * bits // 8)).astype(np.uint8)
            zeros = RANDOM.integers(0, 256, (24, -(-blocks * bits // 8))).astype(np.uint8)
            # Not large, as scales of real weights: ONNX Runtime may round activations.
            scales = np.abs(weight(24, blocks)) * np.float32(0.1)
            x = ("B", "S", k)
            yield case(f"{op} {bits} bits {k}/{block}", op, [x, packed, scales.reshape(-1)], **attrs)
            yield case(f"{op} {bits} bits {k}/{block} zeros", op, [x, packed, scales.reshape(-1), zeros.reshape(-1)],
                       **attrs)
            yield case(f"{op} {bits} bits {k}/{block} bias", op,
                       [x, packed, scales.reshape(-1), None, None, weight(24)], **attrs)


def multi_head():
    op, n = "MultiHeadAttention", {"num_heads": 4}
    q, k = ("B", "S", 32), ("B", "L", 32)
    new, past = [q, q, q], [("B", 4, "P", 8), ("B", 4, "P", 8)]
    yield case(op, op, [q, k, k], **n)
    yield case(f"{op} bias", op, [q, k, k, weight(96)], **n)
    yield case(f"{op} narrow values", op, [q, k, ("B", "L", 24)], **n)
    yield case(f"{op} lengths", op, [q, k, k, None, lengths("L")], **n)
    yield case(f"{op} padding", op, [q, k, k, weight(96), below(2, "B", "L")], **n)
    yield case(f"{op} square padding", op, [q, q, q, None, below(2, "B", "S", "S")], **n)
    yield case(f"{op} filter", op, [q, k, k, None, below(2, "B", "L")], mask_filter_value=-3.0, **n)
    yield case(f"{op} attention bias", op, [q, k, k, None, None, (1, 4, "S", "L")], **n)
    yield case(f"{op} both masks", op, [q, k, k, None, below(2, "B", "L"), ("B", 4, "S", "L")], scale=0.2, **n)
    yield case(f"{op} causal", op, new, unidirectional=1, **n)
    # ONNX Runtime computes packed operands on other devices only: it is given the parts.
    for what, operands in [("packed", [("B", "S", 4, 3, 8)]), ("packed keys", [q, ("B", "L", 4, 2, 8)])]:
        *first, whole = operands
        parts = [f"part{i}" for i in range(whole[3])]
        split = [helper.make_node("Constant", [], ["flat"], value_ints=[0, 0, 32]),
                 helper.make_node("Split", [f"x{len(first)}"], [f"{p}_5" for p in parts], axis=3, num_outputs=whole[3])]
        split += [helper.make_node("Reshape", [f"{p}_5", "flat"], [p]) for p in parts]
        name, model, made = case(f"{op} {what}", op, operands, **n)
        _, separate, _ = case(what, op, [*(["x0"] if first else []), *parts], before=split, more=made, **n)
        yield name, model, made, separate
    yield case(f"{op} split keys", op, [q, ("B", 4, "L", 8), ("B", 4, "L", 8)], **n)
    yield case(f"{op} past", op, [*new, None, None, None, *past], 3, unidirectional=1, **n)
    yield case(f"{op} past padding", op, [*new, weight(96), below(2, "B", "T"), None, *past], 3, **n)


def attention():
    op, n = "Attention", {"num_heads": 4}
    x, w = [("B", "S", 24), weight(24, 96) * np.float32(0.4)], weight(96)
    yield case(f"{op}", op, [*x, w], **n)
    yield case(f"{op} causal", op, [*x, w], unidirectional=1, scale=0.3, **n)
    yield case(f"{op} lengths", op, [*x, w, lengths("S")], **n)
    yield case(f"{op} padding", op, [*x, w, below(2, "B", "S")], **n)
    yield case(f"{op} causal padding", op, [*x, w, below(2, "B", "S")], unidirectional=1, **n)
    yield case(f"{op} square padding", op, [*x, w, below(2, "B", "S", "S")], **n)
    yield case(f"{op} bias", op, [*x, w, None, None, (1, 4, "S", "S")], **n)
    yield case(f"{op} sizes", op, [x[0], weight(24, 80), weight(80)], qkv_hidden_sizes=[32, 32, 16], **n)
    yield case(f"{op} past", op, [*x, w, None, (2, "B", 4, "P", 8)], 2, unidirectional=1, **n)


def group_query():
    op = "GroupQueryAttention"
    n = {"num_heads": 4, "kv_num_heads": 2}
    new, old = [("B", "S", 64), ("B", "S", 32), ("B", "S", 32)], [("B", 2, "P", 16), ("B", 2, "P", 16)]
    one = [("B", 1, 64), ("B", 1, 32), ("B", 1, 32)]
    table = [weight(64, 8), weight(64, 8)]

    def total(*terms):
        """Nodes that make `total` from the extents of axes (operand, axis)."""
        nodes, names = [], []
        for i, (operand, axis) in enumerate(terms):
            nodes.append(helper.make_node("Shape", [operand], [f"n{i}"], start=axis, end=axis + 1))
            names.append(f"n{i}")
        if len(names) > 1:
            nodes.append(helper.make_node("Add", names, ["sum"]))
        return [*nodes, helper.make_node("Cast", ["sum" if len(names) > 1 else "n0"], ["total"], to=TensorProto.INT32)]

    def last(length):
        return Made(("B",), lambda s: np.full(s["B"], extents([length], s)[0] - 1, np.int32))

    prompt = [None, None, last("S"), "total"]
    grown, first = total(("x0", 1), ("x3", 2)), total(("x0", 1))
    yield case(f"{op} prompt", op, [*new, *prompt], 3, before=first, **n)
    yield case(f"{op} window", op, [*new, *prompt], 3, before=first, local_window_size=3, **n)
    yield case(f"{op} softcap", op, [*new, *prompt], 3, before=first, softcap=2.0, scale=0.5, **n)
    yield case(f"{op} packed", op, [("B", "S", 128), None, None, *prompt], 3, before=first, **n)
    yield case(f"{op} rotary", op, [*new, *prompt, *table], 3, before=first, do_rotary=1, **n)
    yield case(f"{op} packed rotary", op, [("B", "S", 128), None, None, *prompt, *table], 3, before=first,
               do_rotary=1, rotary_interleaved=1, **n)
    yield case(f"{op} bias", op, [*new, *prompt, None, None, None, (1, 1, "S", "S")], 3, before=first, **n)
    # One new position behind old ones, of which the longest batch fills all.
    whole = Made(("B",), lambda s: np.full(s["B"], s["P"], np.int32))
    longest = Made(("B",), lambda s: np.append(RANDOM.integers(1, s["P"] + 1, s["B"] - 1), s["P"]).astype(np.int32))
    yield case(f"{op} past", op, [*one, *old, whole, "total"], 3, before=grown, **n)
    yield case(f"{op} past of several lengths", op, [*one, *old, longest, "total", *table], 3, before=grown,
               do_rotary=1, **n)
    yield case(f"{op} window past", op, [*one, *old, longest, "total"], 3, before=grown, local_window_size=2, **n)
    # As generation loops say it: the whole length is that of a mask.
    mask = Made((1, "T"), lambda s: np.ones((1, s["T"]), np.int32))
    ends = Made((1,), lambda s: np.full(1, s["T"] - 1, np.int32))
    many = [(1, *x[1:]) for x in [*new, *old]] + [ends, "total", *table]
    yield case(f"{op} several new", op, many, 3, before=total(("mask", 1)), more={"mask": mask}, do_rotary=1, **n)


def rotary():
    op, table = "RotaryEmbedding", [weight(64, 8), weight(64, 8)]
    for interleaved in [0, 1]:
        i = {"interleaved": interleaved}
        at = below(64, "B", "S", dtype="int64")
        offset = Made((1,), lambda s: np.array([7], np.int64), "int64")
        what = f"{op} interleaved" if interleaved else op
        yield case(f"{what} flat", op, [("B", "S", 64), at, *table], **i)
        yield case(f"{what} heads", op, [("B", 4, "S", 16), at, *table], **i)
        yield case(f"{what} offset", op, [("B", "S", 64), offset, *table], **i)
        yield case(f"{what} part", op, [("B", "S", 96), at, *table], num_heads=4, rotary_embedding_dim=16, **i)
        x = ("B", 4, "S", 16)
        yield case(f"ONNX {what}", op, [x, *table, at], domain="", **i)
        yield case(f"ONNX {what} rows", op, [x, ("B", "S", 8), ("B", "S", 8)], domain="", **i)
        yield case(f"ONNX {what} flat", op, [("B", "S", 64), *table, at], domain="", num_heads=4, **i)


FAMILIES = [activations, norms, products, multi_head, attention, group_query, rotary]


def check(checks, threads, name, model, made, equal=None):
    """One check for both shapes against ONNX Runtime's results of the model, or of an equal one."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        onnx.save(equal or model, path)
        reference, worst = session(path, threads), 0.0
        onnx.save(model, path)
        try:
            compiled = Compiled(path, folder)
            for sizes in SIZES:
                feeds = {k: v.make(sizes).astype(v.dtype) for k, v in made.items()}
                got, expected = compiled.run(feeds, threads), outputs(reference, feeds)
                for y, array in expected.items():
                    far = difference(got[y], array)
                    if isinstance(far, str) or far > MATCH:
                        said = far if isinstance(far, str) else f"is off by {far:.2e}"
                        return checks.add(False, f"{name} at {sizes}: {y} {said}")
                    worst = max(worst, far)
        except Failed as error:
            return checks.add(False, f"{name}: {error}")
    return checks.add(True, f"{name}: {worst:.1e}")


def main():
    ap = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    ap.add_argument("names", nargs="*", help="only models whose names contain one of these")
    ap.add_argument("--threads", type=int, default=2)
    args = ap.parse_args()
    checks = Checks()
    for family in FAMILIES:
        for name, *models in family():
            if not args.names or any(n in name for n in args.names):
                check(checks, args.threads, name, *models)
    return checks.code()


if __name__ == "__main__":
    sys.exit(main())
