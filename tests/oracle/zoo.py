#!/usr/bin/env python3
"""Compares full-size networks of a model zoo with ONNX Runtime.

    python zoo.py --zoo DIR [--cache DIR] [--threads N] [--cpu CPU] [NAME...]

The zoo is a folder with `models/NAME.json`, `materialize.py`, which writes NAME.onnx, and `make_inputs.py`, whose
`make_inputs(spec, binding)` gives a model's inputs for one of its test shapes. Networks of hundreds of megabytes are
written to --cache and kept there, or to a temporary folder one at a time.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from compiled import Checks, Compiled
from match import compare


def written(zoo, name, folder):
    """Path of NAME.onnx in the folder, written when it is not there."""
    path = Path(folder) / f"{name}.onnx"
    if not path.exists():
        subprocess.run([sys.executable, str(zoo / "materialize.py"), name, "--out", str(folder)], check=True,
                       stdout=subprocess.DEVNULL)
    return path


def test_cases(zoo, name, sizes=()):
    """(shape, feeds) for every test shape of a model, or for the given dynamic dimensions over those of its first one."""
    sys.path.insert(0, str(zoo))
    from make_inputs import make_inputs
    spec = json.loads((zoo / "models" / f"{name}.json").read_text(encoding="utf-8"))
    cases = []
    shapes = [spec["test_shapes"][0] | dict(sizes)] if sizes else spec["test_shapes"]
    for sizes in shapes:
        cases.append((",".join(f"{k}={v}" for k, v in sizes.items()), make_inputs(spec, sizes)))
    return cases


def main():
    ap = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    ap.add_argument("names", nargs="*", help="default: every network of the zoo")
    ap.add_argument("--zoo", type=Path, required=True)
    ap.add_argument("--cache", type=Path, help="keep the written models here")
    ap.add_argument("--threads", type=int, default=2)
    ap.add_argument("--cpu", default="native", help="compile for this processor")
    args = ap.parse_args()
    names = args.names or sorted(path.stem for path in (args.zoo / "models").glob("*.json"))
    if not names:
        ap.error(f"{args.zoo}: no models/NAME.json")
    checks = Checks()
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            model = written(args.zoo, name, args.cache or folder)
            build = lambda *where: Compiled(*where, ["--cpu", args.cpu])
            compare(checks, model, test_cases(args.zoo, name), args.threads, build)
    return checks.code()


if __name__ == "__main__":
    sys.exit(main())
