#!/usr/bin/env python3
"""Runs ONNX's own backend tests on compiled models: cases that passed once must pass, every other has its reason.

    python backend.py [NAME...] [--suite node ...] [--mode static ...] [--record]

The suites are those of the `onnx` package: node cases (generated), and the simple, pytorch-converted and
pytorch-operator models that it ships (the light ones: light.py). Modes: `static`, shapes as in the model; `symbolic`, every extent of every input is
left open; `constants`, inputs are weights, so that the compiler computes the results. Each case is compiled as
`cameo compile` does, by tests/src/bin/backend.rs, which takes many at once; results are compared as ONNX's runner does.

backend/MODE.txt lists the cases that pass in a mode; one of them that fails, and one that passes and is not on the
list, fails the check. backend/MODE-misses.txt has the others, with what is wrong with each. --record writes both anew.
"""

import argparse
import json
import os
import re
import select
import struct
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.backend.test.runner import Runner

from compiled import ROOT, Checks

LISTS = Path(__file__).resolve().parent / "backend"
SUITES = ["node", "simple", "pytorch-converted", "pytorch-operator"]
MODES = ["static", "symbolic", "constants"]
BATCH = 64  # models that are linked at once
PATIENCE = 120  # seconds without a word from the worker
# Only type and shape of what is drawn at random can be compared.
RANDOM = {"Bernoulli", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial"}


class Case:
    """A model with inputs and the outputs that are expected of it."""

    def __init__(self, name, model, inputs, outputs, rtol, atol):
        self.name, self.model, self.inputs, self.outputs = name, model, inputs, outputs
        self.rtol, self.atol = rtol, atol


def node_cases():
    from onnx.backend.test.case.node import collect_testcases
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cases = collect_testcases(None)
    for case in cases:
        inputs, outputs = ([numeric(t) for t in tensors] for tensors in case.data_sets[0])
        yield Case(case.name, case.model, inputs, outputs, case.rtol, case.atol)


def numeric(value):
    """What generators give for types that numpy has no name for."""
    return numpy_helper.to_array(value) if isinstance(value, TensorProto) else value


def shipped_cases(suite):
    folder = Path(onnx.__file__).parent / "backend" / "test" / "data" / suite
    for path in sorted(folder.iterdir()):
        model = onnx.load(path / "model.onnx")
        data = path / "test_data_set_0"

        def tensors(kind):
            files = sorted(data.glob(f"{kind}_*.pb"), key=lambda f: int(f.stem.split("_")[1]))
            values = model.graph.input if kind == "input" else model.graph.output
            return [load(file, value.type) for file, value in zip(files, values)]
        yield Case(path.name, model, tensors("input"), tensors("output"), 1e-3, 1e-7)


def load(file, value_type):
    raw = file.read_bytes()
    kind = value_type.WhichOneof("value")
    if kind == "sequence_type":
        return numpy_helper.to_list(onnx.SequenceProto.FromString(raw))
    if kind == "optional_type":
        return numpy_helper.to_optional(onnx.OptionalProto.FromString(raw))
    return numpy_helper.to_array(TensorProto.FromString(raw))


def in_mode(case, mode):
    """The model for a mode, and its inputs; None where the mode says nothing else than `static`."""
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    if mode == "static":
        return model, case.inputs
    fed = list(zip(model.graph.input, case.inputs))
    if mode == "symbolic":
        for i, (value, _) in enumerate(fed):
            if value.type.WhichOneof("value") == "tensor_type":
                for axis, dim in enumerate(value.type.tensor_type.shape.dim):
                    dim.dim_param = f"i{i}_{axis}"
        del model.graph.value_info[:]
        return model, case.inputs
    kept = []
    for value, array in fed:
        if value.type.WhichOneof("value") == "tensor_type":
            given = numpy_helper.from_array(np.asarray(array), value.name)
            # Types that numpy has no name for are told by the model.
            given.data_type = value.type.tensor_type.elem_type
            model.graph.initializer.append(given)
        else:
            # The tensors of a sequence are no initialisers.
            kept.append((value, array))
    del model.graph.input[:]
    model.graph.input.extend(value for value, _ in kept)
    return model, [array for _, array in kept]


def held(value_type, given):
    """The tensors of an input and their type; None where an optional has none."""
    while value_type.WhichOneof("value") == "optional_type":
        value_type = value_type.optional_type.elem_type
    if value_type.WhichOneof("value") == "sequence_type":
        value_type = value_type.sequence_type.elem_type
    else:
        given = None if given is None else [given]
    return value_type.tensor_type.elem_type, given


def write(folder, model, inputs, symbolic):
    folder.mkdir(parents=True)
    onnx.save(model, folder / "model.onnx")
    out, items, count = [], [], 0
    for value, given in zip(model.graph.input, inputs):
        elem_type, arrays = held(value.type, given)
        if value.type.WhichOneof("value") != "tensor_type":
            shapes = [[("?" if symbolic else str(n)) for n in np.shape(array)] for array in arrays or []]
            spelled = ",".join(f"[{','.join(shape)}]" for shape in shapes) or "0"
            items.append(f"{value.name}={'none' if arrays is None else spelled}")
        for array in arrays or []:
            tensor = numpy_helper.from_array(np.asarray(array))
            raw = tensor.raw_data
            if tensor.data_type == TensorProto.STRING:
                raw = b"".join(struct.pack("<Q", len(text)) + text for text in tensor.string_data)
            out.append(struct.pack("<QQ", elem_type, len(tensor.dims)))
            out.append(struct.pack(f"<{len(tensor.dims) + 1}Q", *tensor.dims, len(raw)))
            out.append(raw + bytes(-len(raw) % 8))
            count += 1
    (folder / "inputs").write_bytes(struct.pack("<Q", count) + b"".join(out))
    if items:
        (folder / "items").write_text("".join(f"{line}\n" for line in items), encoding="utf-8")
    return None


def read(path):
    data, at, tensors = path.read_bytes(), 8, []
    for _ in range(struct.unpack_from("<Q", data)[0]):
        dtype, rank = struct.unpack_from("<QQ", data, at)
        shape = struct.unpack_from(f"<{rank}Q", data, at + 16)
        (count,) = struct.unpack_from("<Q", data, at + 16 + 8 * rank)
        at += 24 + 8 * rank
        tensor = TensorProto(data_type=dtype, dims=shape)
        if dtype == TensorProto.STRING:
            tensor.string_data.extend(strings(data[at:at + count]))
        else:
            tensor.raw_data = data[at:at + count]
        tensors.append(numpy_helper.to_array(tensor))
        at += count + -count % 8
    return tensors


def outputs(folder):
    """What a case gave; sequences are their tensors."""
    names = (folder / "names").read_text(encoding="utf-8").splitlines()
    given = iter(zip(names, read(folder / "outputs"), strict=True))
    out = []
    for name, tensor in given:
        if name.endswith("[].present"):
            # What is before it belongs to no optional that holds nothing.
            own = name.removesuffix(".present")[:-2]
            out = [(of, t) for of, t in out if tensor or of != own]
        elif name.endswith("[].elements"):
            out += [(name.partition("[")[0], part) for part in apart(tensor, next(given)[1])]
        else:
            out.append((name.partition("[")[0], tensor))
    return [tensor for _, tensor in out]


def apart(elements, shapes):
    """The tensors of a sequence whose length the run knew."""
    ends = np.cumsum(np.prod(shapes, axis=1, dtype=np.int64))
    parts = np.split(elements, ends)
    assert not parts.pop().size, "more elements than the shapes have"
    return [part.reshape(shape) for part, shape in zip(parts, shapes)]


def strings(data):
    at, texts = 0, []
    while at < len(data):
        (size,) = struct.unpack_from("<Q", data, at)
        texts.append(data[at + 8:at + 8 + size])
        at += 8 + size
    return texts


def judge(case, got):
    """What is wrong with the outputs, as ONNX's runner sees it; None: nothing."""
    drawn = any(node.op_type in RANDOM for node in case.model.graph.node)
    # A sequence is as many outputs as it has tensors.
    wanted = [tensor for output in case.outputs for tensor in (output if isinstance(output, list) else [output])]
    if len(got) != len(wanted):
        return f"{len(got)} outputs, expected {len(wanted)}"
    for i, (out, expected) in enumerate(zip(got, wanted)):
        expected = np.asarray(expected)
        if expected.dtype.kind in "UO":
            expected = expected.astype(object)
        if out.shape != expected.shape or out.dtype != expected.dtype:
            return f"output {i} is {out.dtype}{list(out.shape)}, expected {expected.dtype}{list(expected.shape)}"
        if drawn:
            continue
        try:
            Runner.assert_similar_outputs([expected], [out], case.rtol, case.atol)
        except AssertionError as error:
            lines = [line for line in str(error).splitlines() if line.strip()]
            return f"output {i}: " + "; ".join(lines[1:4])
    return None


def worker():
    """The path of the worker, built."""
    command = ["cargo", "build", "--quiet", "-p", "cameo-tests", "--bin", "backend", "--profile", "test", "--message-format=json"]
    built = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    found = [json.loads(line) for line in built.stdout.splitlines()]
    return next(m["executable"] for m in found if m.get("executable"))


def run(program, folder, names, flags=()):
    """{name: None or what is wrong} of cases that are written; a worker that ends is one case's fault."""
    results, left = {}, list(names)
    while left:
        process = subprocess.Popen([program, *flags, folder, str(BATCH), *left], stdout=subprocess.PIPE, text=True, bufsize=1)
        compiling, running, ended = [], None, "ended"
        while True:
            # Lines that Python has read already are not seen by select: what ends a wait is read to the end.
            if not select.select([process.stdout], [], [], PATIENCE)[0]:
                process.kill()
                ended = f"says nothing for {PATIENCE} s"
            line = process.stdout.readline()
            if not line:
                break
            name, what = line.rstrip("\n").split(" ", 1)
            if what == "compiles":
                compiling.append(name)
                continue
            compiling = [other for other in compiling if other != name]
            if what == "run":
                running = name
            elif what != "compiled":
                results[name] = None if what == "ok" else what
                running = None if running == name else running
        process.wait()
        before = len(left)
        left = [name for name in left if name not in results]
        if left:
            # The one that ran, or that compiles; while a batch is linked, the first of it that is not known.
            guilty = running or (compiling or left)[0]
            results[guilty] = f"the worker {ended} (exit code {process.returncode})"
            left.remove(guilty)
        assert len(left) < before
    return results


def check(mode, cases, program):
    """{name: None or what is wrong}"""
    with tempfile.TemporaryDirectory() as folder:
        results, written = {}, []
        for case in cases:
            model, inputs = in_mode(case, mode)
            wrong = write(Path(folder) / case.name, model, inputs, mode == "symbolic")
            if wrong:
                results[case.name] = wrong
            else:
                written.append(case)
        results.update(run(program, folder, [case.name for case in written]))
        for case in written:
            if results[case.name] is None:
                results[case.name] = judge(case, outputs(Path(folder) / case.name))
    return results


# Where results differ: why, by patterns of the cases' names. These are expected to stay.
DIFFERENCES = {
    "test_attention_.*_fp16.*":
        "the expected values round each addition of softmax's sums to the element type, which Cameo computes in float",
    "test_dft_inverse.*": "the expected value is the rounding of a transform in float where the exact one is 0",
    "test_resize_downsample_scales_.*_align_corners":
        "the expected coordinates come of the size before it is rounded; ONNX Runtime gives what Cameo does",
}


def reason(name, wrong):
    """The first thing that is wrong, without the place in the model; why, where results differ."""
    first = wrong.split(" | ")[0].removeprefix("error: ")
    first = first if len(first) <= 160 else first[:160] + "…"
    known = (why for pattern, why in DIFFERENCES.items() if re.fullmatch(pattern, name))
    why = next(known, None) if first.startswith("output ") else None
    return f"{first} ({why})" if why else first


def main():
    ap = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    ap.add_argument("names", nargs="*", help="only cases whose names contain one of these")
    ap.add_argument("--suite", nargs="*", default=SUITES, choices=SUITES)
    ap.add_argument("--mode", nargs="*", default=MODES, choices=MODES)
    ap.add_argument("--record", action="store_true", help="write the lists of passing cases")
    ap.add_argument("--failures", type=Path, help="write what is wrong with each case that fails to this file")
    args = ap.parse_args()
    cases = []
    for suite in args.suite:
        cases += node_cases() if suite == "node" else shipped_cases(suite)
    if args.names:
        cases = [case for case in cases if any(name in case.name for name in args.names)]
    program, checks, failures = worker(), Checks(), []
    for mode in args.mode:
        results = check(mode, cases, program)
        passing = sorted(name for name, wrong in results.items() if wrong is None)
        path = LISTS / f"{mode}.txt"
        listed = set(path.read_text(encoding="utf-8").split()) if path.exists() else set()
        if args.record:
            path.parent.mkdir(exist_ok=True)
            # Of a part of the cases, the others stay as they are.
            whole = not args.names and args.suite == SUITES
            listed = (set() if whole else listed - set(results)) | set(passing)
            path.write_text("".join(f"{name}\n" for name in sorted(listed)), encoding="utf-8")
            if whole:
                misses = [f"{name}: {reason(name, wrong)}\n" for name, wrong in sorted(results.items()) if wrong is not None]
                path.with_name(f"{mode}-misses.txt").write_text("".join(misses), encoding="utf-8")
        for name, wrong in sorted(results.items()):
            if wrong is not None:
                failures.append(f"{mode} {name}: {wrong}\n")
            if (wrong is None) != (name in listed):
                checks.add(False, f"{mode} {name}: " + (wrong or f"passes, but is not in {path.name}: --record"))
        lost = sorted(listed - set(results)) if not args.names and args.suite == SUITES else []
        for name in lost:
            checks.add(False, f"{mode} {name}: there is no such case any more")
        print(f"{mode}: {len(passing)} of {len(results)} cases pass", flush=True)
        checks.passed += len(set(passing) & listed)
    if args.failures:
        args.failures.write_text("".join(failures), encoding="utf-8")
    return checks.code()


if __name__ == "__main__":
    sys.exit(main())
