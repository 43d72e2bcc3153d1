#!/usr/bin/env python3
"""Compares the recurrent layers LSTM, GRU and RNN with ONNX Runtime and with the cases of the `onnx` package.

    python recurrent.py [--threads N] [--variants N]

The variants are made of every combination of direction, operands and attributes that ONNX Runtime runs, drawn at random.
Length and batch are symbols; each is compiled once and run at two shapes. The package's cases are compiled with their
sizes, and with symbols in the place of the first two of X.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from compiled import Checks, Compiled, Failed, outputs, session

FLOAT, INT32 = TensorProto.FLOAT, TensorProto.INT32
SIZES = [{"T": 6, "B": 3}, {"T": 1, "B": 1}]
GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
FUNCTIONS = {"RNN": 1, "GRU": 2, "LSTM": 3}
# Name, and how many of alpha and beta it takes.
ACTIVATIONS = {"Relu": 0, "Tanh": 0, "Sigmoid": 0, "Affine": 2, "LeakyRelu": 1, "ThresholdedRelu": 1, "ScaledTanh": 2,
               "HardSigmoid": 2, "Elu": 1, "Softsign": 0, "Softplus": 0}
value = helper.make_tensor_value_info


def variant(op, r):
    """(what it is, model, shapes of its inputs)"""
    inputs, hidden = int(r.integers(1, 20)), int(r.choice([1, 7, 16, 19]))
    direction = str(r.choice(["forward", "reverse", "bidirectional"]))
    count = 2 if direction == "bidirectional" else 1
    chance = lambda p=0.5: r.random() < p
    named = chance(0.4)
    # Functions without bounds explode with large weights.
    scale = 0.1 if named else 0.4
    weight = lambda name, *shape: numpy_helper.from_array((r.standard_normal(shape) * scale).astype(np.float32), name)
    rows = GATES[op] * hidden
    weights = [weight("w", count, rows, inputs), weight("r", count, rows, hidden)]
    shapes, types = {"x": ("T", "B", inputs)}, {"x": FLOAT}
    names = ["x", "w", "r", "", "", "", "", ""]
    attrs = {"hidden_size": hidden, "direction": direction}
    if chance(0.7):
        weights.append(weight("bias", count, 2 * rows))
        names[3] = "bias"
    if chance():
        shapes["lengths"], types["lengths"], names[4] = ("B",), INT32, "lengths"
    for i, name in [(5, "h0"), (6, "c0")][:1 + (op == "LSTM")]:
        if chance():
            shapes[name], types[name], names[i] = (count, "B", hidden), FLOAT, name
    if op == "LSTM" and chance(0.4):
        weights.append(weight("p", count, 3 * hidden))
        names[7] = "p"
    if op == "LSTM" and chance(0.3):
        attrs["input_forget"] = 1
    if op == "GRU" and chance():
        attrs["linear_before_reset"] = 1
    if chance(0.3):
        attrs["clip"] = 0.5
    if named:
        chosen = [str(r.choice(list(ACTIVATIONS))) for _ in range(FUNCTIONS[op] * count)]
        attrs["activations"] = chosen
        for name, needed in [("activation_alpha", 1), ("activation_beta", 2)]:
            some = [float(r.uniform(0.1, 0.9)) for c in chosen if ACTIVATIONS[c] >= needed]
            attrs |= {name: some} if some else {}
    results = ["y", "y_h", "y_c"][:2 + (op == "LSTM")]
    kept = [n if chance(0.8) else "" for n in results]
    kept = kept if any(kept) else results
    while names[-1] == "":
        names.pop()
    graph = helper.make_graph([helper.make_node(op, names, kept, name=op.lower(), **attrs)], op.lower(),
                              [value(n, types[n], s) for n, s in shapes.items()],
                              [value(n, FLOAT, None) for n in kept if n], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    said = " ".join([op, *(n for n in names[3:] if n), *(f"{k}={v}" for k, v in attrs.items())])
    return said, model, shapes


def quantized(said, model, r):
    """An LSTM with 8-bit weights, of one sequence: ONNX Runtime quantizes the states of several in shares of its threads."""
    [node], weights = model.graph.node, {w.name: numpy_helper.to_array(w) for w in model.graph.initializer}
    node.op_type, node.domain = "DynamicQuantizeLSTM", "com.microsoft"
    node.input.extend([""] * (8 - len(node.input)))
    t, each = str(r.choice(["int8", "uint8"])), bool(r.random() < 0.5)
    for name in ["w", "r"]:
        # Of few bits, so that no instruction of ONNX Runtime saturates.
        real = np.ascontiguousarray(weights[name].transpose(0, 2, 1))
        size = np.abs(real).max(1) if each else np.abs(real).max((1, 2))
        scale = (size / 31).astype(np.float32)
        zero = np.full(scale.shape, 32 if t == "uint8" else 0, t)
        code = np.rint(real / scale.reshape(scale.shape[0], 1, -1)) + zero.reshape(zero.shape[0], 1, -1).astype(np.float32)
        for part, value_ in [(name, code.astype(t)), (f"{name}_scale", scale), (f"{name}_zero", zero)]:
            weights[part] = value_
        node.input.extend([f"{name}_scale", f"{name}_zero"])
    del model.graph.initializer[:]
    model.graph.initializer.extend(numpy_helper.from_array(v, n) for n, v in weights.items())
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    return f"quantized {said} {t} {'columns' if each else 'whole'}", model


def feeds(shapes, sizes, r):
    given = {}
    for name, shape in shapes.items():
        shape = [sizes.get(d, d) for d in shape]
        given[name] = (r.integers(1, sizes["T"] + 1, shape).astype(np.int32) if name == "lengths"
                       else r.standard_normal(shape).astype(np.float32))
    return given


def check(checks, what, model, cases, threads):
    """`cases` are (name, feeds, expected or None for what ONNX Runtime says)."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        onnx.save(model, path)
        try:
            compiled = Compiled(path, folder)
            peer = None
            for name, given, expected in cases:
                if expected is None:
                    peer = peer or session(path, threads)
                    expected = outputs(peer, given)
                checks.matches(f"{what} {name}", compiled.run(given, threads), expected)
        except Failed as error:
            checks.add(False, f"{what}: {error}")


def shipped():
    """The cases of the package: name, model, feeds, expected."""
    from onnx.backend.test.case import node
    for case in node.collect_testcases(None):
        if case.name.startswith(("test_lstm", "test_gru", "test_rnn", "test_simple_rnn")):
            names = [i.name for i in case.model.graph.input]
            results = [o.name for o in case.model.graph.output]
            for ins, outs in case.data_sets:
                yield case.name, case.model, dict(zip(names, ins)), dict(zip(results, outs))


def with_symbols(model):
    model = onnx.ModelProto.FromString(model.SerializeToString())
    for i, name in enumerate(["P", "Q"]):
        model.graph.input[0].type.tensor_type.shape.dim[i].dim_param = name
    for out in model.graph.output:
        out.type.tensor_type.ClearField("shape")
    return model


def main():
    ap = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    ap.add_argument("--threads", type=int, default=2)
    ap.add_argument("--variants", type=int, default=12, help="of each operator")
    ap.add_argument("--seed", type=int, default=5)
    args = ap.parse_args()
    checks = Checks()
    for name, model, given, expected in shipped():
        cases = [("", given, expected)]
        check(checks, name, model, cases, args.threads)
        check(checks, f"{name} with symbols", with_symbols(model), cases, args.threads)
    r = np.random.default_rng(args.seed)
    for op in GATES:
        for _ in range(args.variants):
            said, model, shapes = variant(op, r)
            cases = [(",".join(f"{k}={v}" for k, v in s.items()), feeds(shapes, s, r), None) for s in SIZES]
            check(checks, said, model, cases, args.threads)
    for _ in range(args.variants):
        said, model, shapes = variant("LSTM", r)
        said, model = quantized(said, model, r)
        cases = [(f"T={t}", feeds(shapes, {"T": t, "B": 1}, r), None) for t in [5, 1]]
        check(checks, said, model, cases, args.threads)
    return checks.code()


if __name__ == "__main__":
    sys.exit(main())
