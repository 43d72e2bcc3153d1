#!/usr/bin/env python3
"""Compiles an ONNX file once and compares it with ONNX Runtime at one or more shapes.

    python match.py MODEL.onnx [--at B=1,S=16]... [--threads N] [--seed N] [-- COMPILER FLAGS]

A shape passes when max|y - y_ort| <= 1e-4 max(1, max|y_ort|) for every output; see feeds.py for the inputs.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import onnx

from compiled import Checks, Compiled, Failed, outputs, session
from feeds import binding, random_feeds


def compare(checks, model, cases, threads=2, build=Compiled):
    """Adds a check per case to `checks`; cases are (name, feeds). What `build` makes in a folder serves all of them."""
    name = Path(model).stem
    with tempfile.TemporaryDirectory() as folder:
        try:
            compiled = build(model, folder)
        except Failed as error:
            for case, _ in cases:
                checks.add(False, f"{name} {case}: {error}")
            return
        reference = session(model, threads)
        for case, feeds in cases:
            try:
                got = compiled.run(feeds, threads)
            except Failed as error:
                checks.add(False, f"{name} {case}: {error}")
                continue
            checks.matches(f"{name} {case}", got, outputs(reference, feeds))


def main():
    ap = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    ap.add_argument("model", type=Path)
    ap.add_argument("--at", action="append", metavar="B=1,S=16", help="values of the symbolic dims; may be repeated")
    ap.add_argument("--threads", type=int, default=2)
    ap.add_argument("--seed", type=int, default=0)
    own, flags = sys.argv[1:], []
    if "--" in own:
        own, flags = own[:own.index("--")], own[own.index("--") + 1:]
    args = ap.parse_args(own)
    graph = onnx.load(args.model, load_external_data=False)
    cases = [(at, random_feeds(graph, binding(at), args.seed)) for at in args.at or [""]]
    checks = Checks()
    compare(checks, args.model, cases, args.threads, lambda *where: Compiled(*where, flags))
    return checks.code()


if __name__ == "__main__":
    sys.exit(main())
