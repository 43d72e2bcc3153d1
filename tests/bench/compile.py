#!/usr/bin/env python3
"""Measures compilation and start of one model and checks the project's bounds.

    python compile.py MODEL.onnx [--at B=1,S=16] [--seconds 8] [--start-ms MS] [--threads N] [--json FILE] [-- FLAGS]

    compile time           at most --seconds (wall clock, best of two: the first may read the model from disk)
    compiler's memory      at most 1.3 x model + 400 MB (largest resident set of the compiler or of a tool it calls)
    identical bytes        of two compilations
    executable             at most 1.5 MB, stripped, when the weights are a file of their own
    start to first output  at most --start-ms when given: median wall time of the whole process, outputs written
    memory of a run        at most 1.15 x weights + arena + 10 MB
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "oracle"))

from compiled import Checks, call, compiler
from feeds import binding, random_feeds

MB = 1e6
STARTS = 20             # processes for the median of the start


def timed(command):
    """(seconds, peak bytes) of a command; the peak is the kernel's, over the process and its waited-for children."""
    start = time.perf_counter()
    child = subprocess.Popen([str(c) for c in command], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode != 0:
        raise SystemExit(f"{command[0]} ended with {child.returncode}")
    return time.perf_counter() - start, usage.ru_maxrss * 1024


def model_bytes(path):
    """The file, and the files beside it that it names as external data."""
    import onnx
    model = onnx.load(path, load_external_data=False)
    names = {e.value for w in model.graph.initializer for e in w.external_data if e.key == "location"}
    return path.stat().st_size + sum((path.parent / n).stat().st_size for n in names)


def artefact(folder, name):
    """{file: bytes} of what a compilation left."""
    return {f.name: f.read_bytes() for f in sorted(folder.iterdir()) if f.name.startswith(name)}


def measure(options, folder):
    model, name = options.model, options.model.stem
    first, second = Path(folder) / "1", Path(folder) / "2"
    times, peaks = [], []
    for place in (first, second):
        place.mkdir()
        seconds, peak = timed([compiler(), "compile", "-q", model, "-o", place / name, *options.flags])
        times.append(seconds)
        peaks.append(peak)
    result = {"model": str(model), "model_bytes": model_bytes(model), "compile_seconds": times,
              "compiler_peak_bytes": max(peaks), "identical": artefact(first, name) == artefact(second, name)}
    exe = first / name
    result["weights_file_bytes"] = sum(f.stat().st_size for f in first.glob(f"{name}.weights"))
    stripped = Path(folder) / "stripped"
    shutil.copy(exe, stripped)
    call(["strip", "-s", stripped])
    result["executable_bytes"], result["stripped_bytes"] = exe.stat().st_size, stripped.stat().st_size

    feeds = random_feeds(model, binding(options.at))
    inputs, out = Path(folder) / "in.npz", Path(folder) / "out.npz"
    np.savez(inputs, **feeds)
    run = [exe, "--inputs", inputs, "--threads", options.threads]
    starts = [timed([*run, "--outputs", out])[0] * 1e3 for _ in range(STARTS)]
    result["start_ms"] = {"median": float(np.median(starts)), "min": min(starts), "max": max(starts)}
    bench = json.loads(call([*run, "--bench", "--runs", 3, "--warmup", 1]))
    about = json.loads(call([exe, "--describe", "--inputs", inputs]))
    result |= {"run_peak_bytes": bench["peak_rss_bytes"], "weight_bytes": about["weight_bytes"],
               "arena_bytes": about["arena_bytes"] or 0}
    return result


def check(r, options):
    checks = Checks()

    def at_most(what, value, bound, unit):
        checks.add(value <= bound, f"{what:22} {value:9.2f} {unit:2}  at most {bound:.2f}")

    at_most("compile time", min(r["compile_seconds"]), options.seconds, "s")
    at_most("compiler's memory", r["compiler_peak_bytes"] / MB, 1.3 * r["model_bytes"] / MB + 400, "MB")
    checks.add(r["identical"], "identical bytes        of two compilations")
    if r["weights_file_bytes"]:
        at_most("executable, stripped", r["stripped_bytes"] / MB, 1.5, "MB")
    at_most("start to first output", r["start_ms"]["median"], options.start_ms or float("inf"), "ms")
    memory = 1.15 * r["weight_bytes"] / MB + r["arena_bytes"] / MB + 10
    at_most("memory of a run", r["run_peak_bytes"] / MB, memory, "MB")
    print(f"     weights {r['weight_bytes'] / MB:.1f} MB, arena {r['arena_bytes'] / MB:.1f} MB, "
          f"executable {r['executable_bytes'] / MB:.2f} MB")
    return checks.code()


def main():
    ap = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    ap.add_argument("model", type=Path)
    ap.add_argument("--at", default="", metavar="B=1,S=16", help="values of the symbolic dims for the runs")
    ap.add_argument("--seconds", type=float, default=8, help="bound of the compile time")
    ap.add_argument("--start-ms", type=float, help="bound of the start")
    ap.add_argument("--threads", type=int, default=2)
    ap.add_argument("--json", type=Path, help="write the figures here")
    ap.add_argument("flags", nargs="*", help="for the compiler, after --")
    options = ap.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = measure(options, folder)
    print(f"{options.model.name} {options.at}")
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return check(result, options)


if __name__ == "__main__":
    sys.exit(main())
