#!/usr/bin/env python3
"""Measures what compiled models take (memory, start, code, compilation) against ONNX Runtime and OpenVINO, in turns.

    python footprint.py --zoo DIR [--cache DIR] [--rounds N] [--threads N] [--json FILE] [NAME[@B=1,S=128]...]

Every network of a zoo (../oracle/zoo.py), or those that are named, at its first test shape; in every round each side runs once
in a process of its own, and who begins changes from round to round. Medians of the rounds, and the project's bounds:

    peak      largest resident set, at most 0.8 x the smaller peer's
    start     ours from before the process is started to its end, inputs read and outputs written; theirs without starting
              Python and importing: from before the model is loaded to after the first run. At most 0.1 x the faster peer's
    arena     at most 1.1 x the largest sum of tensors that are alive at once, which no plan can be below
    code      the executable without weights at most 1.5 MB; "kernels" is the machine code that is this model's own
    compile   at most 15 s

Figures beyond their bound have a "!", and the exit code says whether there are none. A peer that refuses a model has "-".
"""

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "oracle"))

import zoo
from compare import machine
from compiled import Checks, Compiled, Failed, call, compiler, difference, outputs, session
from feeds import binding
from peers import PEERS, command, installed, version

BOUNDS = {"peak": 0.8, "start": 0.1, "arena": 1.1, "code": 1.5e6, "compile": 15.0}

# Whose figures the bounds are relative to.
JUDGES = ("onnxruntime", "openvino")

MB = 1e6


def kernel_bytes(model, folder):
    """Machine code of the model alone, its shape function included: the object has a section for each function."""
    call([compiler(), "compile", "-q", model, "--emit", "object", "-o", folder])
    rows = (line.split() for line in call(["size", "-A", next(folder.glob("*.o"))]).splitlines())
    return sum(int(row[1]) for row in rows if row and row[0].startswith(".text"))


def first_run(compiled, saved, threads):
    """(milliseconds, peak bytes) of a process that runs once."""
    said = compiled.folder / "said.json"
    run = [compiled.path, "--inputs", saved, "--outputs", compiled.folder / "first.npz", "--threads", threads,
           "--bench", "--runs", 1, "--warmup", 0]
    out = (os.POSIX_SPAWN_OPEN, 1, said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    start = time.perf_counter()
    child = os.posix_spawn(compiled.path, [str(a) for a in run], os.environ, file_actions=[out])
    _, status = os.waitpid(child, 0)
    end = time.perf_counter()
    if status:
        raise SystemExit(f"{compiled.path.name} ended with {os.waitstatus_to_exitcode(status)}")
    return (end - start) * 1e3, json.loads(said.read_text())["peak_rss_bytes"]


def measure(name, model, at, feeds, options):
    with tempfile.TemporaryDirectory() as folder:
        kernels = kernel_bytes(model, Path(folder) / "object")
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        compiled = Compiled(model, folder)
        seconds = time.perf_counter() - start
        expected = outputs(session(model, options.threads), feeds)
        got = compiled.run(feeds, options.threads)
        far = [d for n, e in expected.items() if isinstance(d := difference(got[n], e), str) or d > 1e-3]
        if far:
            raise SystemExit(f"{name}: wrong result ({far[0]})")
        saved = compiled.save(feeds)
        # Writing back what compilations wrote would be timed with whatever runs then.
        os.sync()
        sides = ["cameo", *options.peers]
        rounds = {side: [] for side in sides}
        for turn in range(options.rounds):
            for side in sorted(sides, reverse=turn % 2 == 1):
                try:
                    if side == "cameo":
                        rounds[side].append(first_run(compiled, saved, options.threads))
                    else:
                        said = json.loads(call(command(side, model, saved, options.threads, 1, 0)).splitlines()[-1])
                        rounds[side].append((said["first_ms"], said["peak_rss_bytes"]))
                except Failed:
                    if side == "cameo":
                        raise
                    rounds[side].append((float("nan"), float("nan")))
        medians = {side: np.median(r, axis=0) for side, r in rounds.items()}
        about = compiled.describe(feeds)
        places = [f for size in at.split(",") if size for f in ("--at", size)]
        plan = json.loads(call([compiler(), "inspect", "--optimized", "--json", *places, model]))
        result = {"model": f"{name} {at}".strip(), "peak_bytes": {s: float(m[1]) for s, m in medians.items()},
                  "start_ms": {s: float(m[0]) for s, m in medians.items()}, "rounds": rounds,
                  "arena_bytes": about["arena_bytes"], "alive_bytes": plan["alive_bytes"],
                  "weight_bytes": about["weight_bytes"], "executable_bytes": compiled.path.stat().st_size,
                  "kernel_bytes": kernels, "compile_seconds": seconds}
    result["figures"] = figures(result)
    return result


def figures(r):
    """What is held against BOUNDS; peers that refused the model have no figures."""
    def ratio(sides):
        return sides["cameo"] / np.nanmin([x for side, x in sides.items() if side != "cameo"])

    return {"peak": ratio(r["peak_bytes"]), "start": ratio(r["start_ms"]),
            "arena": r["arena_bytes"] / max(1, r["alive_bytes"]), "code": r["executable_bytes"],
            "compile": r["compile_seconds"]}


def row(r, peers):
    """The cells of a result."""
    def cell(key, text):
        return text + ("!" if r["figures"][key] > BOUNDS[key] else "")

    def number(x, digits):
        return "-" if np.isnan(x) else f"{x:.{digits}f}"

    sides = ["cameo", *peers]
    ratio = r["figures"]
    return [r["model"], *(number(r["peak_bytes"][s] / MB, 1) for s in sides), cell("peak", f"{ratio['peak']:.2f}"),
            *(number(r["start_ms"][s], 1) for s in sides), cell("start", f"{ratio['start']:.2f}"),
            f"{r['arena_bytes'] / MB:.2f}", f"{r['alive_bytes'] / MB:.2f}", cell("arena", f"{ratio['arena']:.2f}"),
            f"{r['kernel_bytes'] / 1e3:.0f}", cell("code", f"{r['executable_bytes'] / MB:.2f}"),
            cell("compile", f"{r['compile_seconds']:.2f}")]


def main():
    ap = argparse.ArgumentParser(description=__doc__.split("\n\n")[0], usage=__doc__.split("\n\n")[1])
    ap.add_argument("models", nargs="*")
    ap.add_argument("--zoo", type=Path, required=True)
    ap.add_argument("--cache", type=Path)
    ap.add_argument("--rounds", type=int, default=5)
    ap.add_argument("--threads", type=int, default=2)
    ap.add_argument("--json", type=Path, help="write everything here")
    ap.add_argument("--peers", nargs="+", choices=PEERS, default=[p for p in JUDGES if p in installed()])
    options = ap.parse_args()
    about = machine()
    print(f"{about['cpu']}, {about['cpus']} CPUs; {options.threads} threads; {', '.join(version(p) for p in options.peers)}; "
          f"medians of {options.rounds} rounds\n", flush=True)
    sides = ["Cameo", *(PEERS[p][0] for p in options.peers)]
    head = ["model", *(f"peak MB {s}" for s in sides), "ratio", *(f"start ms {s}" for s in sides), "ratio", "arena MB",
            "alive MB", "ratio", "kernels kB", "code MB", "compile s"]
    print("| " + " | ".join(head) + " |\n|" + "---|" * len(head), flush=True)
    results = []
    for item in options.models or sorted(p.stem for p in (options.zoo / "models").glob("*.json")):
        name, _, sizes = item.partition("@")
        with tempfile.TemporaryDirectory() as folder:
            model = zoo.written(options.zoo, name, options.cache or folder)
            at, feeds = zoo.test_cases(options.zoo, name, binding(sizes))[0]
            results.append(measure(name, model, at, feeds, options))
        print("| " + " | ".join(row(results[-1], options.peers)) + " |", flush=True)
    if options.json:
        options.json.write_text(json.dumps({"machine": about, "threads": options.threads, "results": results}, indent=1)
                                + "\n", encoding="utf-8")
    print()
    checks = Checks()
    for key, bound in BOUNDS.items():
        beyond = [r["model"] for r in results if r["figures"][key] > bound]
        checks.add(not beyond, f"{key:8} {len(results) - len(beyond)} of {len(results)} within {bound:g}"
                   + (f", not {'; '.join(beyond)}" if beyond else ""))
    return checks.code()


if __name__ == "__main__":
    sys.exit(main())
