#!/usr/bin/env python3
"""Compares models of strings with ONNX Runtime: what is moved, looked up, compared, joined, encoded, split, cased, matched,
read as numbers.

    python strings.py [NAME...]

Extents are symbols; each model is compiled once and run on several inputs, with empty strings and other alphabets. Splitting
and cases are compared with Python, which ONNX refers to: ONNX Runtime splits an empty string into nothing, and has the cases of
the locales that a machine has; what it moves is compared with numpy, as it loses strings that it moves twice.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from compiled import Checks, Compiled, Failed, outputs, session

S, I, B, F = TensorProto.STRING, TensorProto.INT64, TensorProto.BOOL, TensorProto.FLOAT
ML = "ai.onnx.ml"
WORDS = ["", "red", "Green", "BLUE", "rot", "grün", "赤 い", "a b c", "x@y.com", "1.5", "red", " padded ", "é", "e\u0301"]


def node(op, inputs, outs, domain="", **attributes):
    return helper.make_node(op, inputs, outs, domain=domain, **attributes)


def const(name, values):
    return helper.make_tensor(name, S, [len(values)], [v.encode() for v in values])


# Name: nodes, weights, inputs (name, rank), outputs (name, type, rank).
MODELS = {
    "moved": ([node("Transpose", ["x"], ["t"]), node("Gather", ["t", "i"], ["g"]), node("Concat", ["g", "t"], ["y"], axis=0)],
              [helper.make_tensor("i", I, [2], [1, 0])], [("x", [None, 3])], [("y", S, 2)]),
    "compared": ([node("Equal", ["x", "c"], ["e"]), node("Where", ["e", "x", "d"], ["y"])],
                 [const("c", ["red", "grün", ""]), const("d", ["other"])], [("x", [None, 3])], [("e", B, 2), ("y", S, 2)]),
    "labels": ([node("LabelEncoder", ["x"], ["k"], ML, keys_strings=["red", "grün", ""], values_int64s=[3, 1, 4], default_int64=-7),
                node("LabelEncoder", ["k"], ["y"], ML, keys_int64s=[3, 4], values_strings=["rouge", ""], default_string="什")],
               [], [("x", [None, None])], [("k", I, 2), ("y", S, 2)]),
    "columns": ([node("OneHotEncoder", ["x"], ["o"], ML, cats_strings=["red", "", "赤 い"]),
                 node("CategoryMapper", ["x"], ["k"], ML, cats_strings=["red", "grün"], cats_int64s=[5, 6])],
                [], [("x", [None, 2])], [("o", TensorProto.FLOAT, 3), ("k", I, 2)]),
    "joined": ([node("StringConcat", ["x", "s"], ["a"]), node("StringConcat", ["a", "x"], ["y"])],
               [const("s", ["-", "", "ö"])], [("x", [None, 1])], [("y", S, 2)]),
    "matched": ([node("RegexFullMatch", ["x"], ["a"], pattern=r"[\w.]+@\w+\.(com|org)"),
                 node("RegexFullMatch", ["x"], ["b"], pattern=r"(?i)r.d|gr.n"), node("RegexFullMatch", ["x"], ["c"], pattern=r"\D*")],
                [], [("x", [None])], [("a", B, 1), ("b", B, 1), ("c", B, 1)]),
    "split": ([node("StringSplit", ["x"], ["y", "n"], delimiter=" "), node("StringSplit", ["x"], ["z", "m"], maxsplit=1)],
              [], [("x", [None, None])], [("y", S, 3), ("n", I, 2), ("z", S, 3), ("m", I, 2)]),
    "normal": ([node("StringNormalizer", ["x"], ["l"], case_change_action="LOWER", locale="en_US"),
                node("StringNormalizer", ["x"], ["s"], case_change_action="UPPER", locale="en_US", is_case_sensitive=1, stopwords=["red", "1.5"]),
                node("StringNormalizer", ["x"], ["t"], locale="en_US", stopwords=["RED", "green", ""])],
               [], [("x", [None])], [("l", S, 1), ("s", S, 1), ("t", S, 1)]),
    "numbers": ([node("Cast", ["x"], ["f"], to=F), node("Mul", ["f", "f"], ["g"]), node("Cast", ["g"], ["s"], to=S),
                 node("Cast", ["x"], ["d"], to=TensorProto.DOUBLE), node("Add", ["d", "d"], ["e"]), node("CastLike", ["e", "x"], ["t"])],
                [], [("x", [None, 2])], [("s", S, 2), ("t", S, 2)]),
    "whole": ([node("Cast", ["x"], ["k"], to=I), node("Cast", ["x"], ["u"], to=TensorProto.INT32), node("Neg", ["k"], ["m"]),
               node("Cast", ["m"], ["s"], to=S), node("Cast", ["u"], ["t"], to=S)],
              [], [("x", [None])], [("k", I, 1), ("u", TensorProto.INT32, 1), ("s", S, 1), ("t", S, 1)]),
}
TEXTS = {
    "numbers": ["0", "-0.5", "3.14159265358979", "1e-5", "1E8", "-2.5e-10", "123456789", "INF", "-inf", "NaN", " 7", "1e300", ".25"],
    "whole": ["0", "-5", "123456789", "+17", " 42", "-2147483648"],
}


def split_by(x, delimiter, limit):
    parts = np.char.split(x, delimiter, limit)
    counts = np.vectorize(len, otypes=[np.int64])(parts)
    most = counts.max(initial=0)
    rows = [row + [""] * (most - len(row)) for row in parts.reshape(-1)]
    return np.array(rows, object).reshape(*x.shape, most), counts


def split(x):
    return dict(zip("ynzm", [*split_by(x, " ", None), *split_by(x, None, 1)]))


def normal(x):
    words = x.tolist()
    kept = {"l": [w.lower() for w in words], "s": [w.upper() for w in words if w not in ("red", "1.5")],
            "t": [w for w in words if w.lower() not in ("red", "green", "")]}
    return {k: np.array(v or [""], object) for k, v in kept.items()}


def moved(x):
    return {"y": np.concatenate([x.T[[1, 0]], x.T])}


# What Python says of these.
MEANT = {"moved": moved, "split": split, "normal": normal}


def model(name):
    nodes, weights, inputs, outs = MODELS[name]
    named = lambda n, shape: [d if d is not None else f"{n}{i}" for i, d in enumerate(shape)]
    graph = helper.make_graph(
        nodes, name, [helper.make_tensor_value_info(n, S, named(n, shape)) for n, shape in inputs],
        [helper.make_tensor_value_info(n, t, [None] * rank) for n, t, rank in outs], weights)
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid(ML, 3)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


def feeds(name, random, extents):
    shape = lambda dims: [d if d is not None else random.choice(extents) for d in dims]
    return {n: random.choice(np.array(TEXTS.get(name, WORDS)), shape(dims)) for n, dims in MODELS[name][2]}


def main():
    ap = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    ap.add_argument("names", nargs="*", help="only these models")
    args = ap.parse_args()
    checks, random = Checks(), np.random.default_rng(5)
    for name in args.names or MODELS:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"{name}.onnx"
            onnx.save(model(name), path)
            try:
                compiled = Compiled(path, folder)
                reference = None if name in MEANT else session(path)
                for extents in [[1], [4], [23], [5, 9]]:
                    given = feeds(name, random, extents)
                    if reference:
                        want = outputs(reference, {k: v.astype(object) for k, v in given.items()})
                    else:
                        want = MEANT[name](given["x"])
                    got = compiled.run(given)
                    wrong = [k for k, v in want.items() if got[k].shape != v.shape or (got[k].astype(v.dtype) != v).any()]
                    first = next(iter(given.values())).shape
                    checks.add(not wrong, f"{name} {list(first)}" + "".join(f"; {k}: {got[k]}, expected {want[k]}" for k in wrong))
            except Failed as error:
                checks.add(False, f"{name}: {error}")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "moved.onnx"
        onnx.save(model("moved"), path)
        try:
            Compiled(path, folder).run({"x": np.array([[b"a", b"b\xff", b""]])})
            checks.add(False, "what is no UTF-8 is taken")
        except Failed as error:
            checks.add("not UTF-8" in str(error), f"refused: {error}")
        path = Path(folder) / "numbers.onnx"
        onnx.save(model("numbers"), path)
        try:
            Compiled(path, folder).run({"x": np.array([["1", "one"]])})
            checks.add(False, "what is no number is taken")
        except Failed as error:
            checks.add("is no number" in str(error), f"refused: {error}")
    return checks.code()


if __name__ == "__main__":
    sys.exit(main())
