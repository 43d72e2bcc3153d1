#!/usr/bin/env python3
"""Compares networks compiled with `--varlen` with ONNX Runtime: equal where there are tokens, zeros where there is padding.

    python packed.py [NAME...] [--threads N] [--zoo DIR] [--cache DIR]

The network is the encoder of slice.py, with dimensions left open and fixed. Padding is at the end, at the start, anywhere,
nowhere, or everywhere. With --zoo, see zoo.py, its encoders are compared as well.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx

from compiled import Checks, Compiled, Failed, outputs, session
from feeds import random_feeds
from slice import FULL, encoder

ZOO = ["albert", "bert_base_eager_ts", "bert_base_sdpa_dynamo", "distilbert", "minilm_l6_sdpa_ts"]
PADDINGS = ["end", "start", "anywhere", "nowhere", "everywhere"]
SIZES = [(3, 19), (4, 8)]  # batch, length


def tokens(padding, batch, length):
    """Which elements of a batch are tokens: sequences of any length from 1 on, one of them full."""
    random = np.random.default_rng(length)
    lengths = np.append(random.integers(1, length + 1, batch - 1), length)[:, None]
    places = np.tile(np.arange(length), (batch, 1))
    if padding == "everywhere":
        return places < 0
    if padding == "start":
        return places >= length - lengths
    if padding == "anywhere":
        return np.argsort(random.random((batch, length)), axis=1) < lengths
    return places < (lengths if padding == "end" else length)


def compare(checks, model, what, threads, folder, flags=(), sizes=SIZES):
    try:
        compiled, reference = Compiled(model, folder, ["--varlen", *flags]), session(model, threads)
        for batch, length in sizes:
            for padding in PADDINGS:
                there = tokens(padding, batch, length)
                feeds = random_feeds(model, {"B": batch, "S": length})
                masks = [name for name in feeds if "mask" in name]
                feeds |= {name: there.astype(feeds[name].dtype) for name in masks}
                got, expected = compiled.run(feeds, threads), outputs(reference, feeds)
                for name, array in expected.items():
                    if array.shape[:2] == there.shape:
                        array[~there] = 0
                    else:  # of the first token, which is there or not
                        array[~there[:, 0]] = got[name][~there[:, 0]]
                checks.matches(f"{what} at {batch}x{length}, padding {padding}", got, expected)
    except Failed as error:
        checks.add(False, f"{what}: {error}")


def main():
    ap = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    ap.add_argument("names", nargs="*", help="only networks whose names contain one of these")
    ap.add_argument("--threads", type=int, default=2)
    ap.add_argument("--zoo", type=Path)
    ap.add_argument("--cache", type=Path)
    args = ap.parse_args()
    wanted = lambda name: not args.names or any(n in name for n in args.names)
    checks = Checks()
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "encoder.onnx"
        onnx.save(encoder(FULL), model)
        if wanted("encoder"):
            compare(checks, model, "encoder", args.threads, folder)
            batch, length = SIZES[0]
            fixed = ["--dim", f"B={batch}", "--dim", f"S={length}"]
            compare(checks, model, "encoder of fixed size", args.threads, folder, fixed, SIZES[:1])
    if args.zoo:
        import zoo
        for name in filter(wanted, ZOO):
            with tempfile.TemporaryDirectory() as folder:
                compare(checks, zoo.written(args.zoo, name, args.cache or folder), name, args.threads, folder, sizes=SIZES[:1])
    return checks.code()


if __name__ == "__main__":
    sys.exit(main())
