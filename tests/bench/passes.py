#!/usr/bin/env python3
"""What the passes cost: the compile time of models with all passes, and without those that recover structure.

    python passes.py MODEL.onnx... [--rounds 3] [--json FILE]

Compiles each model in both ways in turns, and prints a row of Markdown per model, of medians: seconds of wall clock and of
processors, in both ways; milliseconds of all passes and of `algebra` (`--time-passes`); and the number of nodes before and
after all passes. The exit code says whether compilation takes at most 25 % more wall clock with them, and `algebra` less
than 20 % of it, for every model; a model that is refused with or without them counts as a failure.
"""

import argparse
import json
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "oracle"))

from compiled import Checks, compiler

# The passes that see structure again that an exporter, a runtime or training has taken apart, and the search; the others
# simplify.
RECOVERING = [
    "contributed", "reroll", "norms", "activations", "attention", "rotary", "dead_channels", "one_hot", "narrow",
    "associate", "reparam", "algebra", "projections",
]
GROWTH, ALGEBRA = 1.25, 0.20


def compiled(model, flags):
    """(seconds, processor seconds, what --time-passes says) of a compilation, or None when the model is refused."""
    def spent():
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return used.ru_utime + used.ru_stime

    with tempfile.TemporaryDirectory() as folder:
        command = [str(c) for c in [compiler(), "compile", model, "--time-passes", "-q", "-o", Path(folder) / "m", *flags]]
        start, before = time.perf_counter(), spent()
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        seconds = time.perf_counter() - start
    return (seconds, spent() - before, done.stderr) if done.returncode == 0 else None


def milliseconds(said, name):
    """Of all stages of that name."""
    return sum(float(t) for t in re.findall(rf"^ *{name} +([0-9.]+) ms", said, re.MULTILINE))


def measure(model, rounds):
    without = [f for p in RECOVERING for f in ("--disable-pass", p)]
    compiled(model, [])  # from here on the file is in memory
    runs = {"all": [], "without": []}
    for i in range(rounds):
        # Who begins changes, as in compare.py.
        for side, flags in sorted([("all", []), ("without", without)], reverse=i % 2 == 1):
            runs[side].append(compiled(model, flags))
    result = {"model": model.stem}
    if None in runs["all"] + runs["without"]:
        return result
    said = [s for *_, s in runs["all"]]
    for side, rows in runs.items():
        result[side] = [float(np.median([r[i] for r in rows])) for i in range(2)]
    result["passes_ms"], result["algebra_ms"] = (
        float(np.median([milliseconds(s, name) for s in said])) for name in ("passes", "algebra"))
    nodes = re.findall(r"(\d+) → (\d+) +nodes", said[0])
    result["nodes"] = [int(nodes[0][0]), int(nodes[-1][1])]
    return result


def row(r):
    if "all" not in r:
        return f"| {r['model']} |" + " – |" * 10
    pairs = [f"{a:.2f} | {b:.2f} | {a / b:.2f}" for a, b in zip(r["all"], r["without"])]
    before, after = r["nodes"]
    return f"| {r['model']} | {' | '.join(pairs)} | {r['passes_ms']:.1f} | {r['algebra_ms']:.1f} | {before} | {after} |"


def main():
    ap = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    ap.add_argument("models", type=Path, nargs="+")
    ap.add_argument("--rounds", type=int, default=3)
    ap.add_argument("--json", type=Path, help="write the figures here")
    options = ap.parse_args()
    results, checks = [], Checks()
    print("| model | wall s | without | ratio | processor s | without | ratio | passes ms | algebra ms | nodes | after |")
    print("|" + "---|" * 11)
    for model in options.models:
        r = measure(model, options.rounds)
        results.append(r)
        print(row(r), flush=True)
    for r in results:
        if "all" not in r:
            checks.add(False, f"{r['model']}: is refused")
            continue
        ratio, share = r["all"][0] / r["without"][0], r["algebra_ms"] / 1e3 / r["all"][0]
        checks.add(ratio <= GROWTH, f"{r['model']}: {ratio:.2f} times the compile time, at most {GROWTH}")
        checks.add(share < ALGEBRA, f"{r['model']}: algebra is {share:.1%} of it, less than {ALGEBRA:.0%}")
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    return checks.code()


if __name__ == "__main__":
    sys.exit(main())
