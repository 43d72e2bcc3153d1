#!/usr/bin/env python3
"""Compares networks that `--slice` cuts out of a model with the same networks cut with numpy, in ONNX Runtime.

    python slice.py [NAME...] [--threads N]

Two small models are generated, written in primitives as exporters do: an encoder as BERT (normalised after each sum,
separate projections, masked) and a decoder as Llama (normalised before, packed projections, a gate, tied embeddings).
Every weight says which class each of its axes belongs to; the reference is a model of the first elements of each.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from compiled import Checks, Compiled, Failed, outputs, session

SIZE = 16  # of a head
WORDS, POSITIONS = 50, 32
FULL = {"hidden": 64, "heads": 4, "ffn": [96, 96, 96, 96], "layers": 4}
SIZES = [(1, 4), (3, 19)]  # batch, length


class Weights:
    """Draws the weights of the full network in a fixed order and cuts each by the classes of its axes."""

    def __init__(self, sizes):
        self.sizes, self.random, self.tensors = sizes, np.random.default_rng(5), []

    def extent(self, axis, layer, sizes):
        if isinstance(axis, int):
            return axis
        return {
            "hidden": sizes["hidden"], "heads": sizes["heads"] * SIZE, "ffn": sizes["ffn"][layer], "qkv": sizes["heads"] * SIZE,
        }[axis]

    def __call__(self, *axes, layer=0, scale=0.3, shift=0.0):
        """The name of a weight whose axes are classes or numbers; "qkv" are three blocks of heads, one after the other."""
        shape = [self.extent(a, layer, FULL) for a in axes]
        packed = axes[-1] == "qkv"
        array = self.random.standard_normal([*shape[:-1], 3, shape[-1]] if packed else shape) * scale + shift
        keep = [slice(self.extent(a, layer, self.sizes)) if layer < self.sizes["layers"] else slice(1) for a in axes]
        if packed:
            keep.insert(-1, slice(None))
        array = array[tuple(keep)].astype(np.float32)
        if packed:
            array = array.reshape([*array.shape[:-2], -1])
        self.tensors.append(numpy_helper.from_array(np.ascontiguousarray(array), f"w{len(self.tensors)}"))
        return self.tensors[-1].name

    def constant(self, array):
        self.tensors.append(numpy_helper.from_array(np.asarray(array), f"w{len(self.tensors)}"))
        return self.tensors[-1].name


class Nodes(list):
    def __call__(self, op, *inputs, outputs=1, **attrs):
        names = [f"v{len(self)}_{i}" for i in range(outputs)]
        self.append(helper.make_node(op, inputs, names, name=f"{op}_{len(self)}", **attrs))
        return names if outputs > 1 else names[0]


def attention(n, w, sizes, q, k, v, mask):
    """Heads of [B,S,heads*size], spelled out."""
    split = w.constant(np.array([0, 0, sizes["heads"], SIZE]))
    heads = [n("Transpose", n("Reshape", x, split), perm=perm)
             for x, perm in [(q, [0, 2, 1, 3]), (k, [0, 2, 3, 1]), (v, [0, 2, 1, 3])]]
    logits = n("Div", n("MatMul", *heads[:2]), w.constant(np.float32(SIZE ** 0.5)))
    mixed = n("MatMul", n("Softmax", n("Add", logits, mask), axis=-1), heads[2])
    return n("Reshape", n("Transpose", mixed, perm=[0, 2, 1, 3]), w.constant(np.array([0, 0, sizes["heads"] * SIZE])))


def encoder(sizes, weights=Weights):
    w, n = weights(sizes), Nodes()

    def norm(x, layer=0):
        d = n("Sub", x, n("ReduceMean", x, w.constant(np.array([-1]))))
        variance = n("ReduceMean", n("Pow", d, w.constant(np.float32(2))), w.constant(np.array([-1])))
        y = n("Div", d, n("Sqrt", n("Add", variance, w.constant(np.float32(1e-5)))))
        y = n("Mul", y, w("hidden", layer=layer, shift=1.0))
        return n("Add", y, w("hidden", layer=layer))

    def linear(x, *axes, layer):
        return n("Add", n("MatMul", x, w(*axes, layer=layer)), w(axes[-1], layer=layer))

    words = n("Gather", w(WORDS, "hidden"), "ids")
    length = n("Shape", "ids", start=1, end=2)
    zero, one = w.constant(np.array([0])), w.constant(np.array([1]))
    places = n("Slice", w.constant(np.arange(POSITIONS)), zero, length, zero, one)
    x = norm(n("Add", words, n("Gather", w(POSITIONS, "hidden"), places)))
    seen = n("Unsqueeze", n("Cast", "mask", to=TensorProto.FLOAT), w.constant(np.array([1, 2])))
    mask = n("Mul", n("Sub", w.constant(np.float32(1)), seen), w.constant(np.float32(-1e4)))
    for layer in range(FULL["layers"]):
        mark = len(n)
        q, k, v = (linear(x, "hidden", "heads", layer=layer) for _ in range(3))
        y = linear(attention(n, w, sizes, q, k, v, mask), "heads", "hidden", layer=layer)
        y = norm(n("Add", y, x), layer)
        h = linear(y, "hidden", "ffn", layer=layer)
        erf = n("Erf", n("Div", h, w.constant(np.float32(2 ** 0.5))))
        h = n("Mul", n("Mul", h, n("Add", erf, w.constant(np.float32(1)))), w.constant(np.float32(0.5)))
        y = norm(n("Add", linear(h, "ffn", "hidden", layer=layer), y), layer)
        if layer < sizes["layers"]:
            x = y
        else:
            del n[mark:]
    pooled = n("Tanh", n("Gemm", n("Gather", x, w.constant(np.array(0)), axis=1), w(10, "hidden"), w(10), transB=1))
    inputs = ["ids", "mask"]
    return model("encoder", n, w, inputs, [x, pooled])


def decoder(sizes, weights=Weights):
    w, n = weights(sizes), Nodes()

    def norm(x, layer=0):
        square = n("ReduceMean", n("Pow", x, w.constant(np.float32(2))), w.constant(np.array([-1])))
        root = n("Sqrt", n("Add", square, w.constant(np.float32(1e-5))))
        return n("Mul", n("Div", x, root), w("hidden", layer=layer, shift=1.0))

    table = w(WORDS, "hidden")
    x = n("Gather", table, "ids")
    length = n("Shape", "ids", start=1, end=2)
    places = n("Range", w.constant(np.array(0)), n("Squeeze", length), w.constant(np.array(1)))
    later = n("Less", n("Unsqueeze", places, w.constant(np.array([1]))), n("Unsqueeze", places, w.constant(np.array([0]))))
    mask = n("Where", later, w.constant(np.float32(-1e9)), w.constant(np.float32(0)))
    for layer in range(FULL["layers"]):
        mark, before = len(n), x
        y = norm(x, layer)
        q, k, v = n("Split", n("MatMul", y, w("hidden", "qkv", layer=layer)), outputs=3, axis=2, num_outputs=3)
        y = attention(n, w, sizes, q, k, v, mask)
        x = n("Add", x, n("MatMul", y, w("heads", "hidden", layer=layer)))
        y = norm(x, layer)
        gate = n("MatMul", y, w("hidden", "ffn", layer=layer))
        gate = n("Mul", gate, n("Sigmoid", gate))
        y = n("Mul", gate, n("MatMul", y, w("hidden", "ffn", layer=layer)))
        x = n("Add", x, n("MatMul", y, w("ffn", "hidden", layer=layer)))
        if layer >= sizes["layers"]:
            del n[mark:]
            x = before
    logits = n("MatMul", norm(x), n("Transpose", table, perm=[1, 0]))
    return model("decoder", n, w, ["ids"], [logits])


def model(name, nodes, weights, inputs, results):
    named = [helper.make_node("Identity", [r], [f"y{i}"]) for i, r in enumerate(results)]
    inputs = [helper.make_tensor_value_info(i, TensorProto.INT64, ["B", "S"]) for i in inputs]
    info = [onnx.ValueInfoProto(name=f"y{i}") for i in range(len(results))]
    graph = helper.make_graph([*nodes, *named], name, inputs, info, weights.tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


CUTS = {
    "hidden": {"hidden": 32}, "heads": {"heads": 1}, "ffn": {"ffn": 40}, "each ffn": {"ffn": [96, 40, 8, 56]},
    "layers": {"layers": 2}, "all": {"hidden": 48, "heads": 3, "ffn": 72, "layers": 3},
    "all in another order": {"layers": 2, "ffn": [17, 31], "hidden": 33, "heads": 2},
}


def left(cut):
    """The sizes that a cut leaves; layers that are gone have any."""
    sizes = FULL | cut
    ffn = sizes["ffn"] if isinstance(sizes["ffn"], list) else [sizes["ffn"]] * FULL["layers"]
    return sizes | {"ffn": ffn + [1] * (FULL["layers"] - len(ffn))}


def feeds(make, batch, length):
    random = np.random.default_rng(batch)
    feeds = {"ids": random.integers(0, WORDS, (batch, length))}
    if make is encoder:
        feeds["mask"] = (np.arange(length) < random.integers(1, length + 1, (batch, 1))).astype(np.int64)
    return feeds


def check(checks, threads, make, name, cut, folder):
    reference, full = folder / "reference.onnx", folder / "full.onnx"
    onnx.save(make(left(cut)), reference)
    onnx.save(make(FULL), full)
    what = f"{make.__name__} {name}"
    wish = ",".join(f"{k}={v}" for k, v in cut.items()).replace(" ", "")
    try:
        compiled, expected = Compiled(full, folder, ["--slice", wish]), session(reference, threads)
        for batch, length in SIZES:
            data = feeds(make, batch, length)
            checks.matches(f"{what} at {batch}x{length}", compiled.run(data, threads), outputs(expected, data))
    except Failed as error:
        checks.add(False, f"{what}: {error}")


def main():
    ap = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    ap.add_argument("names", nargs="*", help="only cuts whose names contain one of these")
    ap.add_argument("--threads", type=int, default=2)
    args = ap.parse_args()
    checks = Checks()
    for make in [encoder, decoder]:
        for name, cut in CUTS.items():
            if not args.names or any(n in f"{make.__name__} {name}" for n in args.names):
                with tempfile.TemporaryDirectory() as folder:
                    check(checks, args.threads, make, name, cut, Path(folder))
    return checks.code()


if __name__ == "__main__":
    sys.exit(main())
