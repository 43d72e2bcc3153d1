#!/usr/bin/env python3
"""Times models with `--varlen` against the same compiled without and against the peers, on padded sequences.

    python varlen.py MODEL.onnx... [--batch N] [--length N] [--mean SHARE] [--rounds N] [--runs N] [--threads N...]

Lengths are spread evenly around SHARE of the padded length, the longest first; all sides get the same padded inputs. Rounds,
medians and quartiles are those of compare.py. The two ratios say how many times as fast Cameo is with `--varlen`.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "oracle")]

from compare import cell, machine, rounds, summary
from compiled import Compiled, difference, outputs, session
from feeds import random_feeds
from peers import PEERS, installed


def masked(feeds, options):
    """The feeds with lengths in the place of the mask, and the mask."""
    low = 2 * options.mean - 1
    shares = np.linspace(1, max(low, 1 / options.length), options.batch)
    lengths = np.maximum(1, np.rint(shares * options.length)).astype(int)
    np.random.default_rng(0).shuffle(lengths[1:])
    mask = np.arange(options.length)[None] < lengths[:, None]
    named = [name for name in feeds if "mask" in name.lower()]
    return {**feeds, **{name: mask.astype(feeds[name].dtype) for name in named}}, mask


def measure(model, options):
    sizes = {"B": options.batch, "S": options.length}
    feeds, mask = masked(random_feeds(model, sizes), options)
    with tempfile.TemporaryDirectory() as folder:
        packed = Compiled(model, Path(folder), ["--varlen"])
        other = Path(folder) / "padded"
        other.mkdir()
        padded = Compiled(model, other)
        expected, got = outputs(session(model), feeds), packed.run(feeds)
        for name, e in expected.items():
            g = got[name]
            if e.shape[:2] == mask.shape:
                g, e = g[mask], e[mask]
            far = difference(g, e)
            if isinstance(far, str) or far > 1e-4:
                raise SystemExit(f"{model}: {name} is wrong ({far})")
        saved = packed.save(feeds)
        for threads in options.threads:
            times = rounds(packed, model, saved, threads, options, {"padded": padded})
            ours = np.array(times["cameo"])
            fastest = np.nanmin([times[p] for p in options.peers], axis=0)
            yield threads, times, summary(np.array(times["padded"]) / ours), summary(fastest / ours), mask.mean()


def main():
    ap = argparse.ArgumentParser(description=__doc__.split("\n\n")[0], usage=__doc__.split("\n\n")[1])
    ap.add_argument("models", nargs="+", type=Path)
    ap.add_argument("--batch", type=int, default=16)
    ap.add_argument("--length", type=int, default=256)
    ap.add_argument("--mean", type=float, default=0.6)
    ap.add_argument("--rounds", type=int, default=5)
    ap.add_argument("--runs", type=int, default=3)
    ap.add_argument("--warmup", type=int, default=1)
    ap.add_argument("--threads", type=int, nargs="+", default=[2])
    ap.add_argument("--peers", nargs="+", choices=PEERS, default=installed(), help="by default all that are installed")
    options = ap.parse_args()
    about = machine()
    print(f"{about['cpu']}, {about['cpus']} CPUs; {', '.join(about['peers'])}; batch {options.batch}, length {options.length}; "
          f"{options.rounds} rounds of {options.runs} runs; milliseconds, median (quartiles)")
    columns = ["--varlen", "padded", *(PEERS[p][0] for p in options.peers), "padded / varlen", "peer / varlen"]
    print(f"{'model':34}" + "".join(f" {c:>27}" for c in columns))
    for model in options.models:
        for threads, times, own, peer, share in measure(model, options):
            name = f"{model.stem} ({share:.2f}), {threads} threads"
            cells = [cell(summary(times[side])) for side in ["cameo", "padded", *options.peers]]
            print(f"{name:34}" + "".join(f" {c:>27}" for c in [*cells, cell(own), cell(peer)]), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
