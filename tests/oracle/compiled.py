"""Compiles models with the command line and runs the executables; compares tensors; counts checks.

The other scripts here and in ../bench stand on this. CAMEO names the compiler; without it, it is the release build of
this checkout.
"""

import argparse
import json
import os
import subprocess
import tempfile
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]


def compiler():
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    path = Path(os.environ.get("CAMEO", target / "release" / "cameo"))
    if not path.exists():
        raise SystemExit(f"{path} is not there: run 'cargo build --release -p cameo' first")
    return path


class Failed(Exception):
    """A command failed; the message is what it printed."""


def call(command):
    """Standard output of a command; Failed with its standard error otherwise."""
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True)
    if done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip() or f"exit status {done.returncode}").splitlines()
        raise Failed(f"{Path(command[0]).name} {command[1]}: " + "\n    ".join(said[-12:]))
    return done.stdout


class Compiled:
    """An executable made from an ONNX file; `folder` receives it, its weights and the tensors of its runs."""

    def __init__(self, model, folder, flags=()):
        self.folder = Path(folder)
        self.path = self.folder / Path(model).stem
        call([compiler(), "compile", "-q", model, "-o", self.path, *flags])

    def save(self, feeds):
        path = self.folder / f"{self.path.name}.in.npz"
        np.savez(path, **feeds)
        return path

    def run(self, feeds, threads=2):
        """{name: array} of the outputs."""
        out = self.folder / f"{self.path.name}.out.npz"
        call([self.path, "--inputs", self.save(feeds), "--outputs", out, "--threads", threads])
        with np.load(out) as arrays:
            return dict(arrays)

    def describe(self, feeds):
        """The model's own description, with arena bytes for the shapes of the feeds."""
        return json.loads(call([self.path, "--describe", "--inputs", self.save(feeds)]))


def session(model, threads=2, plain=False):
    """An ONNX Runtime session of an ONNX file, its nodes as they are where `plain`."""
    import onnxruntime
    options = onnxruntime.SessionOptions()
    if plain:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3  # its remarks about unused initialisers are not ours
    return onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])


def outputs(session, feeds):
    return dict(zip((o.name for o in session.get_outputs()), session.run(None, feeds)))


def difference(got, expected):
    """max|got - expected| / max(1, max|expected|), or the reason why they cannot be compared.

    Integers and booleans must be equal; infinities and NaNs must be in the same places.
    """
    if got.shape != expected.shape or got.dtype != expected.dtype:
        return f"is {got.dtype}{list(got.shape)}, expected {expected.dtype}{list(expected.shape)}"
    if not np.issubdtype(expected.dtype, np.floating):
        wrong = int((got != expected).sum())
        return f"differs in {wrong} of {got.size} values" if wrong else 0.0
    got, expected = got.astype(np.float64), expected.astype(np.float64)
    finite = np.isfinite(expected)
    if not np.array_equal(got[~finite], expected[~finite], equal_nan=True) or not np.isfinite(got[finite]).all():
        return f"has {int((~np.isfinite(got)).sum())} values that are not finite, expected {int((~finite).sum())}"
    if not finite.any():
        return 0.0
    return float(np.abs(got[finite] - expected[finite]).max() / max(1.0, np.abs(expected[finite]).max()))


# The bound of the project for float32 networks: about ten times the noise between two good implementations.
MATCH = 1e-4


class Checks:
    """Prints a line per check and the closing line; `code()` is the exit code."""

    def __init__(self):
        self.passed = self.failed = 0

    def add(self, ok, line):
        self.passed += ok
        self.failed += not ok
        print(f"{'ok  ' if ok else 'FAIL'} {line}", flush=True)

    def matches(self, what, got, expected, bound=MATCH):
        """One check over all outputs of a run."""
        if set(got) != set(expected):
            return self.add(False, f"{what}: outputs {sorted(got)}, expected {sorted(expected)}")
        worst, where, complaints = 0.0, "", []
        for name, array in expected.items():
            far = difference(got[name], array)
            if isinstance(far, str):
                complaints.append(f"{name} {far}")
            elif far >= worst:
                worst, where = far, name
        if worst > bound:
            complaints.append(f"{where} is off by {worst:.2e}, allowed {bound:.0e}")
        return self.add(not complaints, f"{what}: " + ("; ".join(complaints) or f"{worst:.1e}"))

    def code(self):
        print(f"{self.passed} passed, {self.failed} failed")
        return 1 if self.failed else 0


def compare_models(doc, models):
    """The command line of a script that compares models with ONNX Runtime; its exit code.

    Each is (name, model, forms); a form is flags of the compiler with a list of (of what, feeds).
    """
    ap = argparse.ArgumentParser(description=doc.split("\n\n")[0])
    ap.add_argument("names", nargs="*", help="only models whose names contain one of these")
    ap.add_argument("--threads", type=int, default=2)
    args = ap.parse_args()
    checks = Checks()
    for name, model, forms in models:
        if args.names and not any(n in name for n in args.names):
            continue
        for flags, runs in forms:
            what = f"{name}{' of fixed size' if flags else ''}"
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "model.onnx"
                path.write_bytes(model.SerializeToString())
                try:
                    compiled, reference = Compiled(path, folder, flags), session(path, args.threads)
                    for of, feeds in runs:
                        checks.matches(f"{what}, {of}", compiled.run(feeds, args.threads), outputs(reference, feeds))
                except Failed as error:
                    checks.add(False, f"{what}: {error}")
    return checks.code()
