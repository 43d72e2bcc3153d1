#!/usr/bin/env python3
"""Draws what compare.py measured: the ratio of each model, a bar for each number of threads.

    python chart.py FILE.json... FILE.png

The JSON files are those of `compare.py --json`; bars to the left of the line are faster than the fastest of the others.
"""

import importlib.util
import json
import sys
from pathlib import Path


def ratios(results):
    """{model: {threads: (median, first quartile, third quartile)}}, models in their order; a later result replaces one."""
    out = {}
    for r in results:
        ratio = r["ratio"]
        out.setdefault(r["model"], {})[r["threads"]] = (ratio["median"], ratio["q1"], ratio["q3"])
    return out


def read(paths):
    """The results of several files; in old ones the number of threads is that of the file."""
    results = []
    for path in paths:
        report = json.loads(Path(path).read_text(encoding="utf-8"))
        results += [{"threads": report["threads"]} | r for r in report["results"]]
    return results


def needs():
    """Says what is missing before anything is measured."""
    if not importlib.util.find_spec("matplotlib"):
        raise SystemExit("a chart needs matplotlib: pip install -r tests/bench/requirements.txt")


def draw(table, path):
    needs()
    import matplotlib
    matplotlib.use("Agg")
    from matplotlib import pyplot
    counts = sorted({threads for row in table.values() for threads in row})
    height = 0.8 / max(1, len(counts))
    figure, axes = pyplot.subplots(figsize=(8, 1.2 + 0.32 * len(table)), layout="constrained")
    for i, threads in enumerate(counts):
        rows = [(y, row[threads]) for y, row in enumerate(table.values()) if threads in row]
        middle = [median for _, (median, _, _) in rows]
        errors = [[m - q1 for _, (m, q1, _) in rows], [q3 - m for _, (m, _, q3) in rows]]
        places = [y + (i - (len(counts) - 1) / 2) * height for y, _ in rows]
        axes.barh(places, middle, height, xerr=errors, label=f"{threads} thread{'s' if threads > 1 else ''}",
                  error_kw={"elinewidth": 0.8})
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_yticks(range(len(table)), list(table))
    axes.invert_yaxis()
    axes.set_xlim(left=0)
    axes.set_xlabel("time / time of the fastest of the others (median and quartiles; below 1 is faster)")
    axes.legend()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def main():
    *paths, picture = sys.argv[1:]
    if not paths or not picture.endswith(".png"):
        raise SystemExit(__doc__)
    draw(ratios(read(paths)), picture)


if __name__ == "__main__":
    main()
