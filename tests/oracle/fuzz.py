#!/usr/bin/env python3
"""Compares random models of one node: compiled code with the reference interpreter and with ONNX Runtime.

    python fuzz.py [--ops REGEX] [--types NAME...] [--cases N] [--seed N] [--case N] [--reference] [--save DIR]

For every operator and element type there are --cases models (nodes.py, operators.py): random extents, some of them 0, ranks
from 0 on, attributes, optional operands, elements with NaNs, infinities, signed zeros, denormals and the ends of the
integers; operands are inputs with known extents, inputs with symbolic ones, or weights. Each is compiled as `cameo compile`
does, by tests/src/bin/backend.rs, and must give what the interpreter gives, up to the bounds of tests/src/compare.rs; where
ONNX Runtime has a kernel, also what that gives, up to ten times as much (for float the 1e-4 of match.py). What Cameo calls
unsupported is counted, and with symbolic extents tried again without. What differs is printed with the line that makes it
again, and with what `onnx.reference` says. --reference asks that too wherever ONNX Runtime has no kernel. The same seed
gives the same models.

Differences that are not Cameo's are in KNOWN, each with its reason.
"""

import argparse
import collections
import multiprocessing
import os
import re
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from backend import read, run, worker, write
from compiled import Checks, session
from nodes import FLOATS, MOVES, make, type_name
from operators import operators, types_of

CHUNK = 256  # models that are on disk at once
PATIENCE = 60  # seconds for a session and a run of one node

# As in tests/src/compare.rs, where they are explained: relative to the largest of the element, 1, and an eighth of the
# largest element. Other types must be equal.
BOUNDS = {"double": 1e-9, "float": 1e-5, "float16": 2e-3, "bfloat16": 1.6e-2}
# ONNX Runtime rounds between operations, and computes many doubles in float.
RUNTIME_BOUNDS = {"double": 1e-4, "float": 1e-4, "float16": 2e-2, "bfloat16": 1.6e-1}

# Operators that round to integers what they compute with fractions: two ways of computing may be on two sides of a border.
ROUNDED = {"Resize"}

FEW_BITS = {"int2", "uint2", "int4", "uint4"}

# What numpy has no name for is cast before and after in the model for ONNX Runtime, which is exact.
NAMED = {"float", "double", "float16", "bool", *(f"{u}int{n}" for u in ("", "u") for n in (8, 16, 32, 64))}


class Known:
    """Differences from ONNX Runtime that are not Cameo's: those of an operator whose samples satisfy `when`."""

    def __init__(self, ops, reason, when=lambda sample: True):
        self.ops, self.reason, self.when = ops.split(), reason, when


def attribute(sample, name, default=None):
    found = [a for a in sample.model.graph.node[0].attribute if a.name == name]
    return helper.get_attribute_value(found[0]) if found else default


def result(sample):
    return type_name(sample.results[0])


def operands(sample):
    """{index: array}"""
    arrays = dict(zip((v.name for v in sample.model.graph.input), sample.inputs))
    arrays |= {w.name: numpy_helper.to_array(w) for w in sample.model.graph.initializer}
    return {i: arrays[name] for i, name in enumerate(sample.model.graph.node[0].input) if name}


def shape(sample, i=0):
    return operands(sample)[i].shape


def holds(test):
    """Whether an operand has floats that are so."""
    def when(sample):
        floats = [x.astype(np.float64) for x in operands(sample).values() if x.dtype.kind not in "biuOSU"]
        return any(test(x).any() for x in floats)
    return when


has_nan = holds(np.isnan)


def same(sample):
    return attribute(sample, "auto_pad", b"").startswith(b"SAME")


def gaps(sample):
    """Whether windows leave places between them."""
    kernel = attribute(sample, "kernel_shape") or shape(sample, 1)[2:]
    strides, dilations = (attribute(sample, name, [1] * len(kernel)) for name in ("strides", "dilations"))
    return any((k - 1) * d + 1 < s for k, d, s in zip(kernel, dilations, strides))


def normalised(sample):
    """How many elements share a mean."""
    extents = shape(sample)
    if sample.op == "GroupNormalization":
        return np.prod(extents[1:]) // attribute(sample, "num_groups")
    axes = range(2, len(extents)) if sample.op == "InstanceNormalization" else attribute(sample, "axes", [0, 2, 3])
    return np.prod([extents[a] for a in axes])


def blank(sample):
    """Whether some weight has a channel of nothing but zeros."""
    zeros = [numpy_helper.to_array(w) == 0 for w in sample.model.graph.initializer]
    return any(np.all(z, tuple(j for j in range(z.ndim) if j != i)).any() for z in zeros for i in range(max(z.ndim, 1)))


PRODUCTS = {"Mul", "MatMul", "Gemm", "Conv", "Einsum"}

KNOWN = [
    Known("Cast CastLike", "rounds to nearest where fractions are cut off", lambda s: result(s) in FEW_BITS),
    Known("CastLike", "overlooks `saturate` and `round_mode`",
          lambda s: attribute(s, "saturate", 1) == 0 or attribute(s, "round_mode", b"up") != b"up"),
    Known("CastLike", "takes -0 of 8 bits for true",
          lambda s: result(s) == "bool" and holds(lambda x: (x == 0) & np.signbit(x))(s)),
    Known("Clip", "keeps to the largest number where there is no limit", holds(np.isinf)),
    Known("Col2Im", "overlooks dilations unless there are two axes",
          lambda s: max(attribute(s, "dilations", [1])) > 1 and shape(s, 1) != (2,)),
    Known("ConvTranspose", "drops the rows behind the last window that `SAME` asks for", lambda s: same(s) and gaps(s)),
    Known("GlobalMaxPool Hardmax MaxPool ReduceMax ReduceMin ScatterElements ScatterND", "passes over NaNs", has_nan),
    Known("GroupNormalization InstanceNormalization MeanVarianceNormalization",
          "takes the variance for a difference of squares, of which few elements leave nothing", lambda s: normalised(s) <= 16),
    Known("LogSoftmax", "gives -inf beside an infinity", holds(np.isinf)),
    Known("LogSoftmax", "passes over NaNs in its sums of doubles", lambda s: result(s) == "double" and has_nan(s)),
    Known("LpPool AveragePool MaxPool", "begins inside of the image where `SAME` has places between windows",
          lambda s: same(s) and gaps(s)),
    Known("MatMulInteger", "products of no elements are what was in memory", lambda s: 0 in shape(s)),
    Known("MaxPool", "the largest of nothing but -inf is the least number", holds(np.isneginf)),
    Known("MaxPool AveragePool LpPool", "widens `SAME` images for windows that are not dilated",
          lambda s: same(s) and max(attribute(s, "dilations", [1])) > 1),
    Known("MaxUnpool", "counts positions in the shape that is asked for, not in what windows give", lambda s: 2 in operands(s)),
    Known("MeanVarianceNormalization", "its epsilon is 0 in float16", lambda s: result(s) == "float16"),
    Known("Normalizer", "divides by the largest element, not by the largest size, as its text says and its reference does not",
          lambda s: attribute(s, "norm", b"MAX") == b"MAX"),
    Known("NonZero", "a scalar is a vector of one element to it", lambda s: shape(s) == ()),
    Known("ReduceMean", "the mean of no elements is 0 to it", lambda s: 0 in shape(s)),
    Known("Resize", "takes negative axes for others where the aspect is kept",
          lambda s: attribute(s, "keep_aspect_ratio_policy", b"stretch") != b"stretch" and min(attribute(s, "axes", [0])) < 0),
    Known("Resize", "antialiases int8 as if it were unsigned",
          lambda s: result(s) == "int8" and attribute(s, "antialias", 0) == 1),
    Known("Shrink", "computes all types in float", lambda s: result(s) != "float"),
    Known("Sign", "gives 0 for NaN", lambda s: result(s) in ("float16", "bfloat16") and has_nan(s)),
    Known("Softplus", "overflows", holds(lambda x: x > 10)),
    Known("Where", "gives 0 for -0", holds(lambda x: (x == 0) & np.signbit(x))),
]


def known(sample):
    return next((k for k in KNOWN if sample.op in k.ops and k.when(sample)), None)


# ONNX Runtime

def answer(connection):
    """Runs models until there are no more: a process of its own, because some nodes end it."""
    # It says there too what it answers.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    while True:
        path, feeds = connection.recv()
        try:
            # As it is: what it fuses and folds is not the question.
            got = session(path, 1, plain=True).run(None, feeds)
            connection.send((True, got))
        except Exception as error:  # every kind of refusal has a class of its own
            connection.send((False, str(error)))


class Runtime:
    """ONNX Runtime in another process."""

    def __init__(self):
        self.process = None

    def ask(self, path, feeds):
        """The outputs, or why there are none."""
        if self.process is None:
            self.connection, other = multiprocessing.Pipe()
            self.process = multiprocessing.Process(target=answer, args=(other,), daemon=True)
            self.process.start()
            other.close()
        self.connection.send((str(path), feeds))
        try:
            if self.connection.poll(PATIENCE):
                return self.connection.recv()
            why = f"says nothing for {PATIENCE} s"
        except EOFError:
            why = "ended"
        self.close()
        return False, f"ONNX Runtime {why}"

    def close(self):
        if self.process is not None:
            self.process.kill()
            self.process.join()
            self.process = None


def for_runtime(sample):
    """The model and its inputs in types that numpy names."""
    model = onnx.ModelProto()
    model.CopyFrom(sample.model)
    graph, feeds = model.graph, {}
    node = graph.node[0]
    for value, array in zip(graph.input, sample.inputs):
        name = type_name(array.dtype)
        feeds[value.name] = array
        if name not in NAMED:
            feeds[value.name] = array.astype(np.float32)
            places = [i for i, x in enumerate(node.input) if x == value.name]
            number = value.type.tensor_type.elem_type
            value.type.tensor_type.elem_type = TensorProto.FLOAT
            graph.node.insert(0, cast(value.name, f"{value.name}_cast", number))
            node = graph.node[-1]
            for i in places:
                node.input[i] = f"{value.name}_cast"
    for i, dtype in enumerate(sample.results):
        if type_name(dtype) not in NAMED:
            name = node.output[i]
            node.output[i] = f"{name}_cast"
            graph.output[i].type.tensor_type.elem_type = TensorProto.FLOAT
            graph.node.append(cast(f"{name}_cast", name, TensorProto.FLOAT))
    return model, feeds


def cast(source, to, number):
    """Exact: what was an infinity stays one."""
    eight = TensorProto.DataType.Name(number).startswith(("FLOAT8E4", "FLOAT8E5"))
    return helper.make_node("Cast", [source], [to], to=number, **({"saturate": 0} if eight else {}))


def reference(sample):
    """The outputs by onnx.reference, or why there are none."""
    from onnx.reference import ReferenceEvaluator
    feeds = dict(zip((v.name for v in sample.model.graph.input), sample.inputs))
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            return True, [np.asarray(y) for y in ReferenceEvaluator(sample.model).run(None, feeds)]
    except Exception as error:  # its operators raise whatever numpy does
        return False, f"{type(error).__name__}: {error}"


# Comparing

def difference(sample, got, want, bounds):
    """What the outputs differ in; None when they agree."""
    if len(got) != len(want):
        return f"{len(got)} outputs, wanted are {len(want)}"
    for i, (g, w) in enumerate(zip(got, want)):
        named = type_name(g.dtype) in NAMED
        if g.shape != w.shape or named and g.dtype != w.dtype:
            return f"output {i} is {g.dtype}{list(g.shape)}, wanted is {w.dtype}{list(w.shape)}"
        wrong = apart(sample, g, w, bounds)
        if wrong.any():
            at = tuple(int(a) for a in np.argwhere(wrong)[0])
            return f"output {i} at {list(at)} is {g[at]}, wanted is {w[at]} ({int(wrong.sum())} of {wrong.size})"
    return None


def apart(sample, got, want, bounds):
    """Where two arrays differ."""
    name = type_name(got.dtype)
    if got.dtype.kind in "biu":
        wrong = np.asarray(got != want)
        if sample.op in ROUNDED and wrong.any():
            wrong &= np.abs(got.astype(np.float64) - want.astype(np.float64)) > 1
        return wrong
    g, w = (a.astype(np.float64) for a in (got, want))
    bound = bounds.get(name, 0.0)
    size = np.abs(w)
    largest = size[np.isfinite(size)].max(initial=0.0)
    with np.errstate(invalid="ignore", over="ignore"):
        near = np.abs(g - w) <= bound * np.maximum(size, max(1.0, largest / 8))
    same = (g == w) | np.isnan(g) & np.isnan(w) | near & np.isfinite(w)
    if sample.op in PRODUCTS and blank(sample):
        # The passes' law: channels of weights that are nothing but zeros make zero of anything, also of infinities.
        same |= (g == 0) & np.isnan(w)
    if sample.op in MOVES | {"Cast", "CastLike"}:
        same &= (g != 0) | (w != 0) | (np.signbit(g) == np.signbit(w))
    return np.asarray(~same)


class Fuzz:
    """Counts, and the lines of what differs."""

    def __init__(self, args, program):
        self.args, self.program, self.runtime = args, program, Runtime()
        self.counts, self.checks = collections.Counter(), Checks()
        self.refused, self.unsupported = collections.Counter(), collections.Counter()

    def fail(self, sample, what):
        self.checks.add(False, f"{sample.text}: {what}")
        if self.args.save:
            name = re.sub(r"[^A-Za-z0-9.]+", "_", sample.text.partition(";")[0] + sample.text.partition("--seed")[2]).strip("_")
            folder = Path(self.args.save) / name
            folder.mkdir(parents=True, exist_ok=True)
            onnx.save(sample.model, folder / "model.onnx")
            np.savez(folder / "inputs.npz", **dict(zip((v.name for v in sample.model.graph.input), sample.inputs)))
            (folder / "what.txt").write_text(f"{what}\n{onnx.printer.to_text(sample.model)}\n", encoding="utf-8")

    def chunk(self, samples):
        """Compares some samples; gives those that wait for another form."""
        with tempfile.TemporaryDirectory() as folder:
            folder, names = Path(folder), [f"s{i}" for i in range(len(samples))]
            for name, sample in zip(names, samples):
                wrong = write(folder / name, sample.model, sample.inputs, sample.form in ("by extent", "every axis"))
                assert wrong is None, f"{sample.text}: {wrong}"
            results = run(self.program, str(folder), names, ["--interpret"])
            return [s for name, s in zip(names, samples) if self.judge(s, folder / name, results[name])]

    def judge(self, sample, folder, wrong):
        """Whether a sample should be tried with known extents."""
        refusal = folder / "refusal"
        refusal = refusal.read_text(encoding="utf-8") if refusal.exists() else None
        for who, said in (("compiled", wrong), ("interpreted", refusal)):
            if said and (said.startswith("panic") or said.startswith("the worker") or said.startswith("link:")):
                self.fail(sample, f"{who}: {said[:300]}")
                return False
        meant = read(folder / "reference") if refusal is None else None
        got = read(folder / "outputs") if wrong is None else None
        symbolic = sample.form in ("by extent", "every axis")
        if got is None and symbolic:
            self.counts["with symbols refused"] += 1
            return True
        if got is None and "unsupported: " in wrong:
            self.counts["refused"] += 1
            self.unsupported[f"{sample.op}: {wrong.split(' | ')[0][-120:]}"] += 1
        if got is not None and meant is None:
            self.fail(sample, f"compiled, but interpreted: {refusal[:300]}")
            return False
        if got is not None:
            self.agree(sample, "the interpreter", got, meant, BOUNDS)
        if known(sample):
            self.counts["known"] += 1
            return False
        model, feeds = for_runtime(sample)
        path = folder / "runtime.onnx"
        onnx.save(model, path)
        there, theirs = self.runtime.ask(path, feeds)
        who = "ONNX Runtime"
        if not there:
            self.counts["not in ONNX Runtime"] += 1
            self.refused[f"{sample.op}: {theirs[:160]}"] += 1
            if not self.args.reference:
                return False
            there, theirs = reference(sample)
            who = "onnx.reference"
            if not there:
                self.counts["not in onnx.reference"] += 1
                return False
        # What does not compile yet has a meaning as well.
        ours = got if got is not None else meant
        if ours is None:
            if "unsupported: " not in wrong:
                self.fail(sample, f"refused: {wrong[:300]}; {who} gives {shapes(theirs)}")
            return False
        if got is None and "unsupported: " not in wrong:
            self.fail(sample, f"fails: {wrong[:300]}; {who} gives {shapes(theirs)}")
            return False
        self.agree(sample, who, ours, theirs, RUNTIME_BOUNDS)
        return False

    def agree(self, sample, who, got, want, bounds):
        what = difference(sample, got, want, bounds)
        self.counts[f"as {who}"] += what is None
        if what is None:
            self.checks.passed += 1
            return
        third = ""
        if who != "onnx.reference":
            there, theirs = reference(sample)
            if not there:
                third = f"; onnx.reference: {theirs[:80]}"
            else:
                sides = [side for side, y in (("Cameo", got), (who, want)) if difference(sample, y, theirs, bounds) is None]
                third = f"; onnx.reference agrees with {' and '.join(sides) or 'neither'}"
        self.fail(sample, f"not as {who}: {what}{third}")


def shapes(tensors):
    return ", ".join(f"{t.dtype}{list(t.shape)}" for t in tensors)


def wanted(args):
    """(operator, domain, generator, element type) of what is asked for."""
    for (domain, op), generate in sorted(operators().items(), key=lambda item: item[0]):
        if re.search(args.ops, f"{domain}::{op}" if domain else op):
            for dtype in types_of(op, domain):
                if not args.types or dtype in args.types:
                    yield op, domain, generate, dtype


def newest_opset(runtime):
    """The newest opset of ONNX Runtime."""
    node = helper.make_node("Identity", ["x"], ["y"])
    info = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy"]
    with tempfile.TemporaryDirectory() as folder:
        for opset in range(onnx.defs.onnx_opset_version(), 0, -1):
            opsets = [helper.make_opsetid("", opset)]
            model = helper.make_model(helper.make_graph([node], "g", info[:1], info[1:]), opset_imports=opsets, ir_version=10)
            onnx.save(model, f"{folder}/model.onnx")
            if runtime.ask(f"{folder}/model.onnx", {"x": np.zeros(1, np.float32)})[0]:
                return opset
    raise SystemExit("ONNX Runtime opens no model")


def main():
    ap = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    ap.add_argument("--ops", default="", metavar="REGEX", help="only operators in whose name this is found")
    ap.add_argument("--types", nargs="*", help="only these element types, by ONNX's names")
    ap.add_argument("--cases", type=int, default=1, help="models for each operator and type")
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--case", type=int, help="only the model of this number")
    ap.add_argument("--reference", action="store_true", help="ask onnx.reference what ONNX Runtime cannot say")
    ap.add_argument("--save", metavar="DIR", help="write the models that differ, with their inputs")
    ap.add_argument("--refusals", action="store_true", help="say what was refused, by Cameo and by ONNX Runtime")
    args = ap.parse_args()
    numbers = range(args.cases) if args.case is None else [args.case]
    fuzz = Fuzz(args, worker())
    opset = newest_opset(fuzz.runtime)
    todo = [(op, domain, generate, dtype, n) for op, domain, generate, dtype in wanted(args) for n in numbers]
    for at in range(0, len(todo), CHUNK):
        made = {}
        for op, domain, generate, dtype, n in todo[at:at + CHUNK]:
            sample = make(op, domain, generate, dtype, args.seed, n, opset)
            if sample is not None:
                made[sample] = (op, domain, generate, dtype, args.seed, n, opset)
        again = fuzz.chunk(list(made))
        fuzz.chunk([make(*made[sample], form="static") for sample in again])
    fuzz.runtime.close()
    print(f"{len(todo)} models; " + ", ".join(f"{what}: {n}" for what, n in sorted(fuzz.counts.items())))
    if args.refusals:
        for who, said in (("Cameo", fuzz.unsupported), ("ONNX Runtime", fuzz.refused)):
            for what, n in said.most_common():
                print(f"{who}: {n} {what}")
    if not fuzz.checks.passed:
        fuzz.checks.add(False, "nothing was compared")
    return fuzz.checks.code()


if __name__ == "__main__":
    sys.exit(main())
