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
TYPES = {
    "float32": TensorProto.FLOAT, "int32": TensorProto.INT32, "int64": TensorProto.INT64, "uint8": TensorProto.UINT8,
    "int8": TensorProto.INT8, "int16": TensorProto.INT16, "uint16": TensorProto.UINT16, "bool": TensorProto.BOOL,
}

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


def codes(dtype, *shape):
    """Random numbers of all that an integer type has."""
    return Made(shape, lambda s: chosen(dtype, *extents(shape, s)), dtype)


def chosen(dtype, *shape, bits=None):
    """The same as an array; with `bits`, only those of so few."""
    info = np.iinfo(dtype)
    low, high = (info.min, info.max) if bits is None else (info.min >> 8 - bits, info.max >> 8 - bits)
    return RANDOM.integers(low, high + 1, shape).astype(dtype)


def scalar(value, dtype="float32"):
    return np.array(value, dtype)


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


def alike(name, op, operands, nodes, results=1, **attrs):
    """A case that ONNX Runtime computes on other devices only: it is given `nodes` that mean the same."""
    name, model, made = case(name, op, operands, results, **attrs)
    equal = onnx.ModelProto()
    equal.CopyFrom(model)
    del equal.graph.node[:]
    equal.graph.node.extend(nodes)
    return name, model, made, equal


def node(op, inputs, outputs, domain="", **attrs):
    return helper.make_node(op, inputs.split(), outputs.split(), domain=domain, **attrs)


def constant(name, value, dtype="int64"):
    return helper.make_node("Constant", [], [name], value=numpy_helper.from_array(np.array(value, dtype)))


def activations():
    yield case("FastGelu", "FastGelu", [("B", "S", 33)])
    yield case("FastGelu bias", "FastGelu", [("B", "S", 33), weight(33)])
    yield case("BiasGelu", "BiasGelu", [("B", "S", 33), weight(33)])
    yield case("QuickGelu", "QuickGelu", [("B", "S", 33)])
    yield case("QuickGelu alpha", "QuickGelu", [("B", "S", 33)], alpha=1.0)
    yield case("Gelu", "Gelu", [("B", "S", 33)])


def biases():
    x = ("B", "S", 34)
    yield alike("BiasAdd", "BiasAdd", [x, weight(34), x], [node("Sum", "x0 x1 x2", "y0")])
    yield alike("BiasSplitGelu", "BiasSplitGelu", [x, weight(34)], [
        node("Add", "x0 x1", "sum"), node("Split", "sum", "a b", axis=-1, num_outputs=2),
        node("Gelu", "b", "gelu"), node("Mul", "a gelu", "y0"),
    ])
    op, x = "BiasSoftmax", ("B", 4, "S", "L")
    for what, bias in [("inner", ("B", 1, 1, "L")), ("outer", (1, 1, "S", "L"))]:
        yield alike(f"{op} {what}", op, [x, bias], [node("Add", "x0 x1", "sum"), node("Softmax", "sum", "y0", axis=3)],
                    axis=3, is_inner_broadcast=int(what == "inner"))
    yield alike(f"{op} axes", op, [x, (1, 4, "S", "L")], [
        node("Add", "x0 x1", "sum"), constant("flat", [0, 0, -1]), node("Reshape", "sum flat", "rows"),
        node("Softmax", "rows", "shares"), node("Shape", "sum", "shape"), node("Reshape", "shares shape", "y0"),
    ], axis=2, is_inner_broadcast=0)
    x = ("B", "S", 33)
    yield alike("BiasDropout", "BiasDropout", [x, weight(33), x],
                [node("Sum", "x0 x1 x2", "y0"), node("IsNaN", "y0", "no"), node("Not", "no", "y1")], 2)


def groups():
    def nodes(sum, activation, channels_last):
        order = ([0, 3, 1, 2], [0, 2, 3, 1]) if channels_last else ([0, 1, 2, 3], [0, 1, 2, 3])
        yield node("Transpose", sum, "second", perm=order[0])
        yield node("GroupNormalization", "second x1 x2", "normal", num_groups=4, epsilon=1e-5)
        yield node("Transpose", "normal", "last", perm=order[1])
        if activation:
            yield node("Sigmoid", "last", "open")
            yield node("Mul", "last open", "y0")
        else:
            yield node("Identity", "last", "y0")

    for activation, last in [(0, 1), (1, 1), (1, 0)]:
        x = ("B", "S", "L", 12) if last else ("B", 12, "S", "L")
        attrs = {"activation": activation, "channels_last": last, "groups": 4, "epsilon": 1e-5}
        what = f"{'last' if last else 'second'}{' activated' if activation else ''}"
        yield alike(f"GroupNorm {what}", "GroupNorm", [x, weight(12), weight(12)],
                    list(nodes("x0", activation, last)), **attrs)
        if last:
            operands = [x, weight(12), weight(12), x, weight(12)]
            yield alike(f"SkipGroupNorm {what}", "SkipGroupNorm", operands,
                        [node("Sum", "x0 x3 x4", "y1"), *nodes("y1", activation, last)], 2, **attrs)
            yield alike(f"SkipGroupNorm {what} images", "SkipGroupNorm", [*operands[:3], ("B", 12)], [
                constant("axes", [1, 2]), node("Unsqueeze", "x3 axes", "skip"), node("Add", "x0 skip", "y1"),
                *nodes("y1", activation, last)], 2, **attrs)


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
    yield case("TransposeMatMul", "TransposeMatMul", [("B", 16, "S"), weight(16, 9)], transA=1)
    for activation, attrs in [("Relu", {}), ("LeakyRelu", {"alpha": 0.2})]:
        named = {f"activation_{k}": v for k, v in attrs.items()}
        yield alike(f"FusedMatMulActivation {activation}", "FusedMatMulActivation", [("B", "S", 16), weight(9, 16)], [
            node("FusedMatMul", "x0 x1", "product", DOMAIN, transB=1, alpha=0.5),
            node(activation, "product", "y0", **attrs),
        ], transB=1, alpha=0.5, activation=activation, **named)
    yield alike("GemmFastGelu", "GemmFastGelu", [("B", "S", 16), weight(16, 9), weight(9)],
                [node("MatMul", "x0 x1", "product"), node("FastGelu", "product x2", "y0", DOMAIN)])
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
    x = ("B", "S", "L", 8)
    second, last = {"perm": [0, 3, 1, 2]}, {"perm": [0, 2, 3, 1]}
    attrs = {"pads": [1, 0, 1, 1], "strides": [2, 1]}
    yield alike("NhwcConv", "NhwcConv", [x, weight(16, 3, 2, 4), weight(16)], [
        node("Transpose", "x0", "x", **second), node("Transpose", "x1", "w", **second),
        node("Conv", "x w x2", "y", group=2, **attrs), node("Transpose", "y", "y0", **last),
    ], group=2, **attrs)
    attrs = {"pads": [1, 1, 1, 1]}
    yield alike("NhwcFusedConv", "NhwcFusedConv", [x, weight(16, 8, 3, 3), weight(16), ("B", "S", "L", 16)], [
        node("Transpose", "x0", "x", **second), node("Conv", "x x1 x2", "y", **attrs),
        node("Transpose", "y", "last", **last), node("Add", "last x3", "sum"), node("Relu", "sum", "y0"),
    ], activation="Relu", **attrs)
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


def few_bits():
    """Elementwise, windows and tables; scales are such that ties are rare."""
    for t in ["uint8", "int8"]:
        def zero(v, t=t):
            return scalar(v, t)

        x = codes(t, "B", "S", 33)
        for op, scale in [("QLinearAdd", 0.071), ("QLinearMul", 0.3137)]:
            coded = [scalar(0.03), zero(5)]
            other, to = [scalar(0.05), zero(7)], [scalar(scale), zero(9)]
            yield case(f"{op} {t}", op, [x, *coded, x, *other, *to])
            yield case(f"{op} {t} row", op, [x, *coded, chosen(t, 33), *other, *to])
            yield case(f"{op} {t} plain", op, [x, *coded, codes(t, "S", 1), *other, scalar(scale)])
        yield case(f"QLinearSigmoid {t}", "QLinearSigmoid", [x, scalar(0.05), zero(5), scalar(1 / 256), zero(0)])
        yield case(f"QLinearLeakyRelu {t}", "QLinearLeakyRelu", [x, scalar(0.05), zero(5), scalar(0.043), zero(9)],
                   alpha=0.13)
        yield case(f"QLinearWhere {t}", "QLinearWhere", [
            Made(("B", "S", 1), lambda s: RANDOM.integers(0, 2, (s["B"], s["S"], 1)), "bool"),
            x, scalar(0.05), zero(5), chosen(t, 33), scalar(0.031), zero(7), scalar(0.043), zero(9)])
        yield case(f"QLinearConcat {t}", "QLinearConcat", [
            scalar(0.043), zero(9), x, scalar(0.05), zero(5), codes(t, "B", "S", 7), scalar(0.043), zero(9)], axis=2)
        for steps in [256, 255]:
            # ONNX Runtime does not saturate what is beyond its type.
            y = [scalar(1 / steps), zero(np.iinfo(t).min)]
            op = "QLinearSoftmax"
            yield case(f"{op} {t} {steps}", op, [x, scalar(0.05), zero(5), *y], axis=-1, opset=13)
        yield case(f"{op} {t} inner", op, [x, scalar(0.05), zero(5), *y], axis=1, opset=13)
        yield case(f"{op} {t} rows", op, [codes(t, "B", "S", 5, 7), scalar(0.05), zero(5), *y], axis=2, opset=12)
        coded = [scalar(0.05), zero(5), scalar(0.021), zero(9)]
        for last in [0, 1]:
            image = codes(t, "B", "S", "L", 8) if last else codes(t, "B", 8, "S", "L")
            what = f"{t}{' last' if last else ''}"
            op = "QLinearGlobalAveragePool"
            yield case(f"{op} {what}", op, [image, *coded], channels_last=last)
            for include in [0, 1]:
                op = "QLinearAveragePool"
                yield case(f"{op} {what} {include}", op, [image, *coded], channels_last=last, kernel_shape=[3, 2],
                           pads=[1, 0, 1, 1], strides=[2, 1], count_include_pad=include)
        yield case(f"NhwcMaxPool {t}", "NhwcMaxPool", [codes(t, "B", "S", "L", 8)], kernel_shape=[3, 2],
                   pads=[1, 0, 1, 1], strides=[2, 1])
        mean = [constant("axes", [0, 2]), node("DequantizeLinear", "x0 x1 x2", "x"),
                node("ReduceMean", "x axes", "y", keepdims=0), node("QuantizeLinear", "y x3 x4", "y0")]
        yield alike(f"QLinearReduceMean {t}", "QLinearReduceMean", [x, *coded], mean, axes=[0, -1], keepdims=0)
    for t in ["uint8", "int8"]:
        tables = [chosen(t, 40, 33), chosen(t, 30, 33), chosen(t, 2, 33), chosen(t, 33), chosen(t, 33)]
        scales = [scalar(0.01 + 0.003 * i) for i in range(5)]
        zeros = [scalar(i, t) for i in range(5)]
        yield case(f"QEmbedLayerNormalization {t}", "QEmbedLayerNormalization", [
            below(40, "B", "S"), below(2, "B", "S"), *tables, below(2, "B", "S"), *scales, *zeros], 2, epsilon=1e-5)
    for t in ["uint8", "int8", "uint16", "int16"]:
        x = [("B", 3, "S"), (np.abs(weight(3)) + 0.1) * np.float32(0.05)]
        zeros = chosen("int8", 3).astype(t)
        yield case(f"QuantizeLinear {t}", "QuantizeLinear", [*x, zeros], axis=1)
        yield case(f"DequantizeLinear {t}", "DequantizeLinear", [codes(t, "B", 3, "S"), x[1], zeros], axis=1)
    op, block = "GatherBlockQuantized", {"block_size": 16, "quantize_axis": -1}
    for bits, columns in [(4, 20), (8, 40)]:
        operands = [chosen("uint8", 30, columns), below(30, "B", "S", dtype="int64"), np.abs(weight(30, 3))]
        yield case(f"{op} {bits} bits", op, operands, bits=bits, **block)
        operands.append(chosen("uint8", 30, -(-3 * bits // 8)))
        yield case(f"{op} {bits} bits zeros", op, operands, bits=bits, **block)


def integer_products():
    x, few = codes("uint8", "B", "S", 32), {"bits": 7}
    for t in ["uint8", "int8"]:
        # Of few bits, so that no instruction of ONNX Runtime saturates.
        w, n = chosen(t, 32, 24, **few), lambda *v, t=t: np.array(v, t)
        each = (np.abs(weight(24)) + 0.1) * np.float32(0.01)
        op = "MatMulIntegerToFloat"
        yield case(f"{op} {t}", op, [x, w, scalar(0.03), scalar(0.01)])
        zeros = [scalar(120, "uint8"), chosen(t, 24, bits=4)]
        yield case(f"{op} {t} columns", op, [x, w, scalar(0.03), each, *zeros, weight(24)])
        op, real = "DynamicQuantizeMatMul", ("B", "S", 32)
        yield case(f"{op} {t}", op, [real, w, scalar(0.01)])
        yield case(f"{op} {t} columns", op, [real, w, each, chosen(t, 24, bits=4), weight(24)])
        op = "QGemm"
        a = [codes("uint8", "S", 32), scalar(0.03), scalar(120, "uint8")]
        yield case(f"{op} {t} float", op, [*a, w, scalar(0.01), n(3).reshape(())], alpha=0.5)
        b, c = [np.ascontiguousarray(w.T), each, np.zeros(24, t)], RANDOM.integers(-900, 900, 24).astype(np.int32)
        yield case(f"{op} {t} columns", op, [*a, *b, c], transB=1)
        yield case(f"{op} {t} coded", op, [*a, *b, c, scalar(0.13), scalar(128, "uint8")], transB=1)
        op, heads = "QAttention", {"num_heads": 4}
        tokens, past = [x, chosen(t, 32, 96, **few), weight(96)], (2, "B", 4, "P", 8)
        zeros = [scalar(120, "uint8"), scalar(1, t)]
        yield case(f"{op} {t}", op, [*tokens, scalar(0.01), scalar(0.003), None, *zeros], **heads)
        columns = np.repeat(each, 4) * np.float32(0.2)
        yield case(f"{op} {t} columns", op, [*tokens, scalar(0.01), columns, lengths("S"), *zeros], **heads)
        yield case(f"{op} {t} past", op, [*tokens, scalar(0.01), scalar(0.003), below(2, "B", "T"), *zeros, past], 2,
                   unidirectional=1, **heads)
    convolved = [
        codes("uint8", "B", "S", "L", 8), scalar(0.03), scalar(120, "uint8"), chosen("int8", 16, 8, 3, 3, bits=7),
        (np.abs(weight(16)) + 0.1) * np.float32(0.01), np.zeros(16, np.int8), scalar(0.13), scalar(128, "uint8"),
        RANDOM.integers(-900, 900, 16).astype(np.int32),
    ]
    yield case("QLinearConv last", "QLinearConv", convolved, channels_last=1, pads=[1, 1, 1, 1], kernel_shape=[3, 3])


def renamed():
    yield case("GatherND", "GatherND", [("B", 9, 5), Made(("S", 2), lambda s: np.stack(
        [RANDOM.integers(0, s["B"], s["S"]), RANDOM.integers(0, 9, s["S"])], 1))])
    yield case("Trilu", "Trilu", [("B", "S", "L"), scalar(1, "int64")], upper=0)
    yield case("Pad", "Pad", [("B", "S"), np.array([1, 0, 2, 3]), scalar([2.5])])
    yield case("ExpandDims", "ExpandDims", [("B", "S"), scalar(-2, "int32")])
    sizes = [node("Shape", "at", "shape"), constant("first", 0), node("Gather", "shape first", "n", axis=0)]
    yield case("Range", "Range", [scalar(2, "int64"), "n"], before=sizes, more={"at": below(3, "S", "B")})
    grid = Made(("B", "L", 3, 2), lambda s: RANDOM.uniform(-1.2, 1.2, (s["B"], s["L"], 3, 2)), "float32")
    for mode in ["bilinear", "nearest", "bicubic"]:
        yield case(f"GridSample {mode}", "GridSample", [("B", 3, "S", 7), grid], mode=mode, align_corners=1)
    op, operands = "ConvTransposeWithDynamicPads", [("B", 8, "S", "L"), weight(8, 4, 3, 3), np.array([1, 0, 1, 1])]
    yield case(op, op, [*operands, weight(4)], strides=[2, 1])
    for metric in ["euclidean", "sqeuclidean"]:
        yield case(f"CDist {metric}", "CDist", [("S", 33), ("L", 33)], metric=metric)


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


def experts():
    x, router = ("B", "S", 32), [helper.make_node("Reshape", ["r", "flat"], ["router"])]
    router = [constant("flat", [-1, 4]), *router]
    more = {"r": Made(("B", "S", 4), lambda s: RANDOM.standard_normal((s["B"], s["S"], 4)), "float32")}
    both = {"before": router, "more": more}
    for kind, rows, attrs in [
        ("relu", 24, {"k": 1}), ("gelu", 24, {"k": 2}), ("silu", 24, {"k": 2, "normalize_routing_weights": 1}),
        ("identity", 24, {"k": 3}), ("swiglu", 48, {"k": 2, "swiglu_fusion": 1}),
        ("swiglu", 48, {"k": 2, "swiglu_fusion": 1, "activation_alpha": 1.702, "activation_beta": 1.0,
                    "swiglu_limit": 0.7}),
    ]:
        operands = [x, "router", weight(4, rows, 32), weight(4, rows), weight(4, 32, 24), weight(4, 32)]
        what = f"{kind}{' limit' if 'swiglu_limit' in attrs else ''}"
        yield case(f"MoE {what}", "MoE", operands, activation_type=kind, **both, **attrs)
        for bits, block in [(4, 0), (8, 0), (4, 16)]:
            pack, blocks = 8 // bits, {"block_size": block} if block else {}

            def layer(n, k, bits=bits, pack=pack, block=block):
                few = np.abs(weight(*((4, n, k // block) if block else (4, n)))) * np.float32(0.4 / 2**bits)
                return [chosen("uint8", 4, n, k // pack), few + np.float32(1e-4)]

            rows = 96 if kind == "swiglu" else 48
            w, v = layer(rows, 32), layer(32, 48)
            operands = [x, "router", *w, weight(4, rows), *v, weight(4, 32)]
            yield case(f"QMoE {what} {bits} bits {block}", "QMoE", operands, activation_type=kind, quant_type="int",
                       expert_weight_bits=bits, **blocks, **both, **attrs)


def position_biases():
    # Buckets of distances up to 10 keys in either direction, as the table says them.
    for both in [0, 1]:
        away = np.arange(40)[None, :] - np.arange(40)[:, None]
        count = 8 // (1 + both)
        far, exact = np.abs(away) if both else np.maximum(-away, 0), count // 2
        share = np.log(np.maximum(far, exact) / exact) / np.log(10 / exact)
        bucket = np.where(far < exact, far, np.minimum(exact + (share * (count - exact)).astype(int), count - 1))
        bucket = bucket + count * ((away > 0) & bool(both))
        table = weight(8, 4)
        lengths = [node("Shape", "x1", "all"), constant("at", [1, 2]), constant("axes", [0]),
                   node("Shape", "x1", "queries", start=1, end=2), node("Shape", "x1", "keys", start=2, end=3)]
        # The operator reads its table head by head.
        biases = table.reshape(4, 8)[:, bucket].astype(np.float32)
        cut = [*lengths, constant("biases", biases, "float32"), constant("zero", [0, 0]), constant("one", [1, 2]),
               node("Slice", "all at_0 at_1 axes", "ends"), node("Slice", "biases zero ends one", "cut"),
               node("Unsqueeze", "cut axes", "y0"), constant("at_0", [1]), constant("at_1", [3])]
        cut = [n for n in cut if n.op_type == "Constant"] + [n for n in cut if n.op_type != "Constant"]
        name = f"RelativePositionBias {'both' if both else 'before'}"
        name, model, made = case(name, "RelativePositionBias", [table, "queries", "keys"], before=lengths[3:],
                                 more={"x1": below(3, "B", "S", "L")}, is_bidirectional=both, max_distance=10)
        equal = onnx.ModelProto()
        equal.CopyFrom(model)
        del equal.graph.node[:]
        equal.graph.node.extend(cut)
        yield name, model, made, equal
    yield alike("GatedRelativePositionBias", "GatedRelativePositionBias", [
        ("B", "S", 32), weight(32), (1, 4, "S", "S"), weight(8, 8), weight(8), weight(1, 4, 1, 1),
    ], [
        constant("heads", [0, 0, 4, 8]), node("Add", "x0 x1", "q"), node("Reshape", "q heads", "q4"),
        node("Transpose", "q4", "query", perm=[0, 2, 1, 3]), node("MatMul", "query x3", "product"),
        node("Add", "product x4", "gates"), node("Split", "gates", "a b", axis=-1, num_outputs=2),
        constant("last", [-1]), node("ReduceSum", "a last", "sum_a"), node("ReduceSum", "b last", "sum_b"),
        node("Sigmoid", "sum_a", "u"), node("Sigmoid", "sum_b", "r"), node("Mul", "r x5", "scaled"),
        constant("one", 1, "float32"), constant("two", 2, "float32"), node("Sub", "scaled one", "less"),
        node("Mul", "u less", "part"), node("Add", "part two", "open"), node("Mul", "open x2", "y0"),
    ], num_heads=4)


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


FAMILIES = [
    activations, biases, norms, groups, products, few_bits, integer_products, renamed, experts, position_biases,
    multi_head, attention, group_query, rotary,
]


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
