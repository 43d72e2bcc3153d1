#!/usr/bin/env python3
"""What the passes cost: the compile time of models with all passes, and without those that recover structure.

    python passes.py MODEL.onnx... [--rounds 3] [--json FILE]

Compiles each model in both ways in turns, and prints a row of Markdown per model: the best in seconds of wall clock, as
writing hundreds of megabytes of weights takes as long as the disk likes, and their ratio; medians of the milliseconds of all
passes and of `algebra` (`--time-passes`); and the number of nodes before and after all passes. A model that cannot be compiled without the passes, or at all, has dashes. The exit code says whether compilation
takes at most 25 % longer with them, and `algebra` less than 20 % of it, for every model.
"""

import argparse
import json
import re
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
RECOVERING = ["contributed", "reroll", "norms", "activations", "attention", "rotary", "one_hot", "associate", "reparam", "algebra"]
GROWTH, ALGEBRA = 1.25, 0.20


def compiled(model, flags):
    """(seconds, what --time-passes says) of a compilation, or None when the model is refused."""
    with tempfile.TemporaryDirectory() as folder:
        command = [str(c) for c in [compiler(), "compile", model, "--time-passes", "-q", "-o", Path(folder) / "m", *flags]]
        start = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        seconds = time.perf_counter() - start
    return (seconds, done.stderr) if done.returncode == 0 else None


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
    if None in runs["all"]:
        return result
    said = [s for _, s in runs["all"]]
    result["seconds"] = min(t for t, _ in runs["all"])
    result["passes_ms"], result["algebra_ms"] = (
        float(np.median([milliseconds(s, name) for s in said])) for name in ("passes", "algebra"))
    nodes = re.findall(r"(\d+) → (\d+) +nodes", said[0])
    result["nodes"] = [int(nodes[0][0]), int(nodes[-1][1])]
    if None not in runs["without"]:
        result["seconds_without"] = min(t for t, _ in runs["without"])
    return result


def row(r):
    def cell(name, form):
        return format(r[name], form) if name in r else "–"
    ratio = f"{r['seconds'] / r['seconds_without']:.2f}" if "seconds_without" in r else "–"
    before, after = r.get("nodes", ["–", "–"])
    return (f"| {r['model']} | {cell('seconds', '.2f')} | {cell('seconds_without', '.2f')} | {ratio} | "
            f"{cell('passes_ms', '.1f')} | {cell('algebra_ms', '.1f')} | {before} | {after} |")


def main():
    ap = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    ap.add_argument("models", type=Path, nargs="+")
    ap.add_argument("--rounds", type=int, default=3)
    ap.add_argument("--json", type=Path, help="write the figures here")
    options = ap.parse_args()
    results, checks = [], Checks()
    print("| model | compile s | without s | ratio | passes ms | algebra ms | nodes | after |\n|---|---|---|---|---|---|---|---|")
    for model in options.models:
        r = measure(model, options.rounds)
        results.append(r)
        print(row(r), flush=True)
    for r in results:
        if "seconds_without" in r:
            ratio = r["seconds"] / r["seconds_without"]
            checks.add(ratio <= GROWTH, f"{r['model']}: {ratio:.2f} times the compile time, at most {GROWTH}")
        if "seconds" in r:
            share = r["algebra_ms"] / 1e3 / r["seconds"]
            checks.add(share < ALGEBRA, f"{r['model']}: algebra is {share:.1%} of it, less than {ALGEBRA:.0%}")
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    return checks.code()


if __name__ == "__main__":
    sys.exit(main())
