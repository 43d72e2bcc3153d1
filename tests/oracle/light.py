#!/usr/bin/env python3
"""Compiles the nine light models of the `onnx` package and compares them with their shipped outputs.

    python light.py [NAME...] [--threads N]

The package ships whole image networks with constant weights and one output each; the input is the ramp i / count, as
in its backend test runner. Every model is checked twice: against the shipped output with the tolerance of the package,
and against ONNX Runtime with that of match.py.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from compiled import Checks, Compiled, Failed, difference, outputs, session
from feeds import inputs_of

MODELS = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"

# Relative tolerances as in onnx.backend.test.case.model.
RELATIVE = {"light_densenet121": 2e-3}
RELATIVE_ELSE, ABSOLUTE = 1e-3, 1e-7


def ramp(model):
    feeds = {}
    for value in inputs_of(model):
        shape = [d.dim_value or 1 for d in value.type.tensor_type.shape.dim]
        count = int(np.prod(shape))
        feeds[value.name] = (np.arange(count).reshape(shape) / count).astype(np.float32)
    return feeds


def shipped(path, names):
    files = [path.with_name(f"{path.stem}_output_{i}.pb") for i in range(len(names))]
    return {name: numpy_helper.to_array(onnx.load_tensor(str(file))) for name, file in zip(names, files)}


def close(got, expected, relative):
    """Whether all outputs are as shipped; the second value says how far they are, for the log."""
    same = all(got[n].shape == e.shape and np.allclose(got[n], e, relative, ABSOLUTE) for n, e in expected.items())
    far = {n: difference(got[n], e) for n, e in expected.items()}
    return same, "; ".join(d if isinstance(d, str) else f"{d:.1e}" for d in far.values())


def check(checks, path, threads):
    model = onnx.load(path)
    feeds = ramp(model)
    expected = shipped(path, [o.name for o in model.graph.output])
    with tempfile.TemporaryDirectory() as folder:
        try:
            got = Compiled(path, folder).run(feeds, threads)
        except Failed as error:
            checks.add(False, f"{path.stem}: {error}")
            return
    if set(got) != set(expected):
        checks.add(False, f"{path.stem}: outputs {sorted(got)}, expected {sorted(expected)}")
        return
    same, far = close(got, expected, RELATIVE.get(path.stem, RELATIVE_ELSE))
    checks.add(same, f"{path.stem} as shipped: {far}")
    checks.matches(f"{path.stem} as in ONNX Runtime", got, outputs(session(path, threads), feeds))


def main():
    ap = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    ap.add_argument("names", nargs="*", help="such as light_resnet50; default: all")
    ap.add_argument("--threads", type=int, default=2)
    args = ap.parse_args()
    paths = [MODELS / f"{name}.onnx" for name in args.names] or sorted(MODELS.glob("*.onnx"))
    checks = Checks()
    for path in paths:
        check(checks, path, args.threads)
    return checks.code()


if __name__ == "__main__":
    sys.exit(main())
