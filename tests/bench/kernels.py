#!/usr/bin/env python3
"""Times single kernels: products with a constant weight, 3x3 convolutions in both forms, attention of one query to a long cache.

    python kernels.py [--repeats N] [--keys N] [NAME...]

Every kernel is a model of one operator, compiled with `--profile`; figures are medians of --repeats runs of the program, each
of which measures the machine's peak in the same second. Products: GFLOP/s, and the share of the peak of multiplications and
additions. Convolutions: microseconds of the plain sum (`--exact-conv`) and of what the compiler chooses. Attention: with one
thread and with two, and the bytes of keys and values that are read.
"""

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, numpy_helper, save

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "oracle")]

from compare import machine
from compiled import Compiled, call, difference, outputs, session

# Rows, inner extent and columns of products; channels and spatial extent of convolutions; heads of attention.
PRODUCTS = [(128, 384, 384), (128, 384, 1536), (128, 1536, 384), (128, 768, 3072), (197, 384, 1152), (3136, 64, 256),
            (128, 1024, 1024), (1, 768, 3072)]
CONVOLUTIONS = [(64, 56), (128, 28), (256, 14), (512, 7)]
HEADS = [1, 3]
SIZE = 128


def model(path, op, inputs, output, weights=(), **attributes):
    """Writes a model of one node with float inputs {name: shape} and weights {name: shape}; returns random feeds."""
    rng = np.random.default_rng(0)

    def normal(shape):
        return rng.standard_normal(shape).astype(np.float32)

    weights = dict(weights)
    node = helper.make_node(op, [*inputs, *weights], ["y"], **attributes)
    described = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in inputs.items()]
    constants = [numpy_helper.from_array(normal(s) / np.float32(np.sqrt(np.prod(s[1:]))), n) for n, s in weights.items()]
    graph = helper.make_graph([node], path.stem, described, [helper.make_tensor_value_info("y", TensorProto.FLOAT, output)], constants)
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10), path)
    return {n: normal(s) for n, s in inputs.items()}


def measure(program, saved, threads, repeats):
    """Medians of milliseconds, GFLOP/s and the share of the peak."""
    rows = []
    report = program.folder / "profile.json"
    for _ in range(repeats):
        call([program.path, "--inputs", saved, "--profile", report, "--threads", threads])
        read = json.loads(report.read_text(encoding="utf-8"))
        speed = read["totals"]["gflop_per_s"]
        rows.append((read["totals"]["steps_ms"], speed, speed / read["machine"]["gflop_per_s"]))
    return [statistics.median(column) for column in zip(*rows)]


def compiled(path, feeds, folder, *flags):
    folder.mkdir(parents=True)
    program = Compiled(path, folder, ["--profile", *flags])
    far = difference(program.run(feeds)["y"], outputs(session(path), feeds)["y"])
    if isinstance(far, str) or far > 1e-4:
        raise SystemExit(f"{path.stem}: wrong ({far})")
    return program, program.save(feeds)


def main():
    ap = argparse.ArgumentParser(description=__doc__.split("\n\n")[0], usage=__doc__.split("\n\n")[1])
    ap.add_argument("names", nargs="*", help="only kernels whose names contain one of these")
    ap.add_argument("--repeats", type=int, default=5)
    ap.add_argument("--keys", type=int, default=16384)
    options = ap.parse_args()
    about = machine()
    print(f"{about['cpu']}, {about['cpus']} CPUs; medians of {options.repeats}", flush=True)

    def wanted(name):
        return not options.names or any(n in name for n in options.names)

    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        for m, k, n in PRODUCTS:
            name = f"product {m}x{k}x{n}"
            if wanted(name):
                path = folder / f"product_{m}_{k}_{n}.onnx"
                feeds = model(path, "MatMul", {"x": [m, k]}, [m, n], {"w": [k, n]})
                ms, speed, share = measure(*compiled(path, feeds, folder / path.stem), 1, options.repeats)
                print(f"{name:28} {ms * 1e3:8.0f} us {speed:8.1f} GFLOP/s {share:6.1%} of peak", flush=True)
        for channels, extent in CONVOLUTIONS:
            name = f"convolution {channels}x{extent}x{extent}"
            if wanted(name):
                path = folder / f"convolution_{channels}.onnx"
                feeds = model(path, "Conv", {"x": [1, channels, extent, extent]}, [1, channels, extent, extent],
                              {"w": [channels, channels, 3, 3]}, pads=[1, 1, 1, 1])
                plain, chosen = (measure(*compiled(path, feeds, folder / f"{path.stem}{i}", *flags), 1, options.repeats)[0]
                                 for i, flags in enumerate([["--exact-conv"], []]))
                print(f"{name:28} {plain * 1e3:8.0f} us plain {chosen * 1e3:8.0f} us chosen {chosen / plain:6.2f}", flush=True)
        for heads in HEADS:
            name = f"attention {heads}x1x{options.keys}"
            if wanted(name):
                path = folder / f"attention_{heads}.onnx"
                shapes = {"q": [1, heads, 1, SIZE], "k": [1, heads, options.keys, SIZE], "v": [1, heads, options.keys, SIZE]}
                program, saved = compiled(path, model(path, "Attention", shapes, shapes["q"]), folder / path.stem)
                one, two = (measure(program, saved, threads, options.repeats)[0] for threads in (1, 2))
                size = 2 * 4 * heads * options.keys * SIZE
                print(f"{name:28} {one * 1e3:8.0f} us {size / one / 1e6:6.1f} GB/s, two threads {two * 1e3:8.0f} us "
                      f"{size / two / 1e6:6.1f} GB/s, {one / two:.2f} times as fast", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
