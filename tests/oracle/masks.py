#!/usr/bin/env python3
"""Compares pruned networks, in which masked weights are zeros, with ONNX Runtime, and checks that they shrink.

    python masks.py [NAME...] [--threads N]

The networks are those of slice.py. Every other element of a class of axes is masked, and the heads and layers of the second
half: what makes such an element is zero. `dead_channels` has to leave as many bytes of weights as the cut network has.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from compiled import Checks, Compiled, Failed, outputs, session
from slice import FULL, SIZE, SIZES, Weights, decoder, encoder, feeds, left


class Masked(Weights):
    """Weights of the full network that make zeros of what `sizes` does not keep."""

    def __init__(self, sizes):
        super().__init__(FULL)
        self.kept = sizes

    def __call__(self, *axes, layer=0, scale=0.3, shift=0.0):
        name = super().__call__(*axes, layer=layer, scale=scale, shift=shift)
        array, made = numpy_helper.to_array(self.tensors[-1]).copy(), axes[-1]
        if not isinstance(made, int):
            if made in ("heads", "qkv"):
                live = np.arange(FULL["heads"] * SIZE) < self.kept["heads"] * SIZE
                live = np.tile(live, 3 if made == "qkv" else 1)
            else:
                count, extent = self.extent(made, layer, self.kept), array.shape[-1]
                live = np.zeros(extent, bool)
                live[np.linspace(0, extent - 1, count).round().astype(int)] = True
            if made == "hidden" and layer >= self.kept["layers"]:
                live[:] = False
            array[..., ~live] = 0
        self.tensors[-1].CopyFrom(numpy_helper.from_array(array, name))
        return name


MASKS = {
    "hidden": {"hidden": 32}, "heads": {"heads": 1}, "ffn": {"ffn": 40}, "each ffn": {"ffn": [96, 40, 8, 56]},
    "layers": {"layers": 2}, "all": {"hidden": 48, "heads": 3, "ffn": 72, "layers": 3},
}


def check(checks, threads, make, name, kept, folder):
    masked, cut = folder / "masked.onnx", folder / "cut.onnx"
    onnx.save(make(FULL, lambda _: Masked(left(kept))), masked)
    onnx.save(make(left(kept)), cut)
    what = f"{make.__name__} {name}"
    try:
        compiled, expected = Compiled(masked, folder), session(masked, threads)
        for batch, length in SIZES:
            data = feeds(make, batch, length)
            checks.matches(f"{what} at {batch}x{length}", compiled.run(data, threads), outputs(expected, data))
        ours, least = (c.describe(data)["weight_bytes"] for c in [compiled, Compiled(cut, folder)])
        checks.add(ours <= 1.05 * least, f"{what}: {ours} bytes of weights, {least} in the cut network")
    except Failed as error:
        checks.add(False, f"{what}: {error}")


def main():
    ap = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    ap.add_argument("names", nargs="*", help="only masks whose names contain one of these")
    ap.add_argument("--threads", type=int, default=2)
    args = ap.parse_args()
    checks = Checks()
    for make in [encoder, decoder]:
        for name, kept in MASKS.items():
            if make is encoder:  # normalises what its layers give: without one, numbers change
                kept = {k: v for k, v in kept.items() if k != "layers"}
            if kept and (not args.names or any(n in f"{make.__name__} {name}" for n in args.names)):
                with tempfile.TemporaryDirectory() as folder:
                    check(checks, args.threads, make, name, kept, Path(folder))
    return checks.code()


if __name__ == "__main__":
    sys.exit(main())
