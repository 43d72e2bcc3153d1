#!/usr/bin/env python3
"""Checks of the benches that need no clock: how results are read, judged and drawn.

    python check.py
"""

import json
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "oracle"))

import chart
import footprint
from compiled import Checks


def result(model, threads, median):
    row = {"model": model, "ratio": {"median": median, "q1": median - 0.1, "q3": median + 0.1}}
    return row | ({"threads": threads} if threads else {})


def charts(checks, folder):
    new = {"threads": [1, 2], "results": [result("b", 1, 0.5), result("a", 2, 0.75), result("b", 2, 1.5)]}
    old = {"threads": 2, "results": [result("b", None, 1.25), result("c", None, 2.0)]}
    paths = [folder / "new.json", folder / "old.json"]
    for path, report in zip(paths, (new, old)):
        path.write_text(json.dumps(report), encoding="utf-8")
    table = chart.ratios(chart.read(paths))
    found = {model: {threads: r[0] for threads, r in row.items()} for model, row in table.items()}
    checks.add(list(found.items()) == [("b", {1: 0.5, 2: 1.25}), ("a", {2: 0.75}), ("c", {2: 2.0})],
               f"ratios of two files: {found}")
    try:
        chart.draw(table, folder / "chart.png")
        drawn = (folder / "chart.png").read_bytes()[:4] == b"\x89PNG"
    except SystemExit as refused:
        drawn = "pip install" in str(refused)
    checks.add(drawn, "a chart, or what to install for one")


def bounds(checks):
    nan = float("nan")
    good = {"model": "m N=1", "peak_bytes": {"cameo": 8e7, "onnxruntime": 1e8, "openvino": nan},
            "start_ms": {"cameo": 10.0, "onnxruntime": 100.0, "openvino": nan}, "arena_bytes": 11e5, "alive_bytes": 10e5,
            "kernel_bytes": 2e5, "executable_bytes": 1.5e6, "compile_seconds": 15.0}
    good["figures"] = footprint.figures(good)
    cells = footprint.row(good, ["onnxruntime", "openvino"])
    checks.add(not any("!" in c for c in cells) and cells.count("-") == 2, f"a row on its bounds: {' | '.join(cells)}")
    bad = good | {"peak_bytes": good["peak_bytes"] | {"cameo": 9e7}, "start_ms": good["start_ms"] | {"cameo": 11.0},
                  "arena_bytes": 12e5, "executable_bytes": 1.6e6, "compile_seconds": 15.2}
    bad["figures"] = footprint.figures(bad)
    cells = footprint.row(bad, ["onnxruntime", "openvino"])
    checks.add(sum("!" in c for c in cells) == len(footprint.BOUNDS), f"a row beyond them: {' | '.join(cells)}")
    empty = footprint.figures(good | {"arena_bytes": 0, "alive_bytes": 0})
    checks.add(empty["arena"] <= 1, "no arena is no waste")


def main():
    checks = Checks()
    with tempfile.TemporaryDirectory() as folder:
        charts(checks, Path(folder))
    bounds(checks)
    return checks.code()


if __name__ == "__main__":
    sys.exit(main())
