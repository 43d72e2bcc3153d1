#!/usr/bin/env python3
"""Times compiled models against ONNX Runtime, OpenVINO, tract and rten (those that are installed), in turns, on this machine.

    python compare.py MODEL.onnx[:B=1,S=128[:FLOOR]]... [--rounds N] [--runs N] [--warmup N] [--threads N...] [--json FILE]
                      [--chart FILE.png]
    python compare.py --zoo DIR [--cache DIR] [NAME[@B=1,S=128][:FLOOR]...]        # networks of a zoo, see ../oracle/zoo.py

In every round each side runs once in a process of its own (warm-up, then RUNS timed runs on the same inputs and number
of threads), and who begins changes from round to round, so that a slow spell of the machine hits both. A round gives
one median per side; the table shows median and quartiles over the rounds, and the median and quartiles of the ratio
Cameo / the faster of the others within a round. The last line is the geometric mean of the inverse, how many times as fast
Cameo is. With a FLOOR the exit code says whether every median ratio is at most its floor. A peer that refuses a model
has no time in its row. Each number of threads has rows of its own. --chart draws the ratios, see chart.py.
"""

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "oracle"))

import chart
from compiled import Checks, Compiled, Failed, call, difference, outputs, session
from feeds import binding, random_feeds
from peers import PEERS, command, installed, version

# With --zoo and no names: the networks and the floors that the project began with.
ZOO = ["deit_small_ts:1.3", "deit_small_dynamo:1.3", "resnet50:1.6", "mobilenetv2_100:1.6"]


def summary(values):
    low, middle, high = np.percentile(values, [25, 50, 75])
    return {"median": float(middle), "q1": float(low), "q3": float(high)}


def machine():
    """What a reader must know to judge the numbers."""
    text = Path("/proc/cpuinfo").read_text(encoding="utf-8") if os.path.exists("/proc/cpuinfo") else ""
    names = (line.split(":", 1)[1].strip() for line in text.splitlines() if line.startswith("model name"))
    return {"cpu": next(names, "unknown"), "cpus": len(os.sched_getaffinity(0)), "peers": [version(p) for p in installed()]}


def measure(case, options):
    """Interleaved rounds for one (name, model, feeds, floor): a result for each number of threads."""
    name, model, feeds, floor = case
    with tempfile.TemporaryDirectory() as folder:
        compiled = Compiled(model, folder)
        # A fast wrong answer is worth nothing; the tight comparison is match.py's.
        expected = outputs(session(model, max(options.threads)), feeds)
        got = compiled.run(feeds, max(options.threads))
        far = [d for n, e in expected.items() if isinstance(d := difference(got[n], e), str) or d > 1e-3]
        if far:
            raise SystemExit(f"{name}: wrong result ({far[0]})")
        saved = compiled.save(feeds)
        for threads in options.threads:
            times = rounds(compiled, model, saved, threads, options)
            fastest = np.nanmin([times[p] for p in options.peers], axis=0)
            yield {"model": name, "threads": threads, "inputs": {n: list(x.shape) for n, x in feeds.items()},
                   "ms": {side: summary(t) for side, t in times.items()},
                   "ratio": summary(np.array(times["cameo"]) / fastest), "floor": floor, "rounds": times}


def rounds(compiled, model, saved, threads, options, others=None):
    """{side: a median for each round}; `others` are more compiled models by the names of their sides."""
    count = {"threads": threads, "runs": options.runs, "warmup": options.warmup}
    ours = [f for k, v in count.items() for f in (f"--{k}", v)]
    programs = {"cameo": compiled, **(others or {})}
    sides = {side: [program.path, "--bench", "--inputs", saved, *ours] for side, program in programs.items()}
    sides |= {peer: command(peer, model, saved, **count) for peer in options.peers}
    times = {side: [] for side in sides}
    for turn in range(options.rounds):
        for side in sorted(sides, reverse=turn % 2 == 1):
            try:
                times[side].append(json.loads(call(sides[side]).splitlines()[-1])["median_ms"])
            except Failed:
                if side in programs:
                    raise
                times[side].append(float("nan"))
    return times


def cases(options):
    """(name, path, feeds, floor) one after the other; a model of a zoo is written when its turn comes."""
    for item in options.models or (ZOO if options.zoo else []):
        if options.zoo:
            import zoo
            item, _, floor = item.partition(":")
            name, _, sizes = item.partition("@")
            with tempfile.TemporaryDirectory() as folder:
                model = zoo.written(options.zoo, name, options.cache or folder)
                at, feeds = zoo.test_cases(options.zoo, name, binding(sizes))[0]
                yield f"{name} {at}", model, feeds, float(floor) if floor else None
        else:
            path, _, rest = item.partition(":")
            at, _, floor = rest.partition(":")
            model = Path(path)
            yield f"{model.stem} {at}".strip(), model, random_feeds(model, binding(at)), float(floor) if floor else None


def cell(s):
    return f"{s['median']:9.2f} ({s['q1']:.2f}-{s['q3']:.2f})"


def main():
    ap = argparse.ArgumentParser(description=__doc__.split("\n\n")[0], usage=__doc__.split("\n\n")[1])
    ap.add_argument("models", nargs="*")
    ap.add_argument("--zoo", type=Path)
    ap.add_argument("--cache", type=Path)
    ap.add_argument("--rounds", type=int, default=7)
    ap.add_argument("--runs", type=int, default=20)
    ap.add_argument("--warmup", type=int, default=5)
    ap.add_argument("--threads", type=int, nargs="+", default=[2])
    ap.add_argument("--json", type=Path, help="write everything here")
    ap.add_argument("--chart", type=Path, metavar="FILE.png", help="draw the ratios here (needs matplotlib)")
    ap.add_argument("--peers", nargs="+", choices=PEERS, default=installed(), help="by default all that are installed")
    options = ap.parse_args()
    if options.chart:
        chart.needs()
    about = machine()
    threads = " and ".join(map(str, options.threads))
    print(f"{about['cpu']}, {about['cpus']} CPUs; {threads} threads; {', '.join(about['peers'])}; "
          f"{options.rounds} rounds of {options.runs} runs; milliseconds, median (quartiles)")
    columns = ["Cameo", *(PEERS[p][0] for p in options.peers)]
    print(f"{'model':34}" + "".join(f" {c:>27}" for c in columns) + f" {'ratio':>24}")
    results = []
    for r in (r for case in cases(options) for r in measure(case, options)):
        results.append(r)
        name = r["model"] + (f", {r['threads']} threads" if len(options.threads) > 1 else "")
        print(f"{name:34}" + "".join(f" {cell(r['ms'][s]):>27}" for s in ["cameo", *options.peers])
              + f" {cell(r['ratio']):>24}", flush=True)
    speed = np.exp(-np.mean([np.log(r["ratio"]["median"]) for r in results]))
    print(f"{len(results)} rows, geometric mean: {speed:.2f} times as fast as the faster of the others")
    if options.json:
        options.json.write_text(json.dumps({"machine": about, "threads": options.threads, "runs": options.runs,
                                            "results": results}, indent=1) + "\n", encoding="utf-8")
    if options.chart:
        chart.draw(chart.ratios(results), options.chart)
    checks = Checks()
    for r in results:
        if r["floor"] is not None:
            ratio = r["ratio"]["median"]
            checks.add(ratio <= r["floor"], f"{r['model']}, {r['threads']} threads: {ratio:.2f}, at most {r['floor']}")
    return checks.code() if checks.passed + checks.failed else 0


if __name__ == "__main__":
    sys.exit(main())
