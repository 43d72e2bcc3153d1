#!/usr/bin/env python3
"""Trains a tiny convolutional network on scikit-learn's digits and writes digits.onnx.

    python train.py [--out DIR]

Needs numpy, scikit-learn (for the 1,797 images alone) and onnx; takes ten seconds on one core. The network and its
gradients are written out below, so that nothing stands between the arithmetic and the ONNX file:

    pixels [N, 8, 8], 0..16 -> /16 -> conv 3x3, 16 -> relu -> conv 3x3, 32 -> relu -> maxpool 2
                            -> linear 64 -> relu -> linear 10 -> softmax

The seeds are fixed: on one machine and NumPy version two runs write the same bytes. Beside the model the script writes
`samples/`: one held-out image of every class as eight lines of eight numbers, the form that digits.c reads.
"""

import argparse
import os
import sys
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # the order of sums, and so the file, must not depend on the cores

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from sklearn.datasets import load_digits

SEED = 7
TEST_SHARE = 5          # every fifth image of the shuffled set is held out
EPOCHS = 40
BATCH = 32
RATE = 2e-3             # Adam's step at the start; it falls to zero along a half cosine
DECAY = 1e-4            # weight decay, as a share of the step
SIDE = 8


def split(seed):
    """Training and held-out images [n, 1, 8, 8] in 0..1 and their classes."""
    data = load_digits()
    order = np.random.default_rng(seed).permutation(len(data.target))
    images = (data.images[order, None] / 16.0).astype(np.float32)
    classes = data.target[order]
    held = np.arange(len(order)) % TEST_SHARE == 0
    return (images[~held], classes[~held]), (images[held], classes[held])


def initial(rng):
    """He-scaled weights; convolutions are [out, in, 3, 3], linear layers [in, out]."""
    def normal(shape, fan_in):
        return (rng.standard_normal(shape) * np.sqrt(2.0 / fan_in)).astype(np.float32)

    return {
        "conv1.w": normal((16, 1, 3, 3), 9), "conv1.b": np.zeros(16, np.float32),
        "conv2.w": normal((32, 16, 3, 3), 144), "conv2.b": np.zeros(32, np.float32),
        "hidden.w": normal((512, 64), 512), "hidden.b": np.zeros(64, np.float32),
        "scores.w": normal((64, 10), 64), "scores.b": np.zeros(10, np.float32),
    }


def patches(x):
    """[n, c, 8, 8] -> [n * 64, c * 9]: the zero-padded 3x3 neighbourhood of every pixel."""
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
    return windows.transpose(0, 2, 3, 1, 4, 5).reshape(len(x) * SIDE * SIDE, -1)


def conv(columns, w, b, count):
    return (columns @ w.reshape(len(w), -1).T + b).reshape(count, SIDE, SIDE, len(w)).transpose(0, 3, 1, 2)


def forward(p, x):
    """Scores [n, 10] and what the backward pass needs."""
    n = len(x)
    col1 = patches(x)
    a1 = np.maximum(conv(col1, p["conv1.w"], p["conv1.b"], n), 0)
    col2 = patches(a1)
    a2 = np.maximum(conv(col2, p["conv2.w"], p["conv2.b"], n), 0)
    quads = a2.reshape(n, 32, 4, 2, 4, 2).transpose(0, 1, 2, 4, 3, 5).reshape(n, 32, 4, 4, 4)
    winner = quads.argmax(-1)
    flat = quads.max(-1).reshape(n, -1)
    hidden = np.maximum(flat @ p["hidden.w"] + p["hidden.b"], 0)
    return hidden @ p["scores.w"] + p["scores.b"], (col1, a1, col2, a2, winner, flat, hidden)


def gradients(p, x, classes):
    """Gradients of the mean cross-entropy."""
    n = len(x)
    scores, (col1, a1, col2, a2, winner, flat, hidden) = forward(p, x)
    e = np.exp(scores - scores.max(1, keepdims=True))
    d_scores = e / e.sum(1, keepdims=True)
    d_scores[np.arange(n), classes] -= 1
    d_scores /= n
    g = {"scores.w": hidden.T @ d_scores, "scores.b": d_scores.sum(0)}
    d_hidden = (d_scores @ p["scores.w"].T) * (hidden > 0)
    g["hidden.w"], g["hidden.b"] = flat.T @ d_hidden, d_hidden.sum(0)
    d_pool = (d_hidden @ p["hidden.w"].T).reshape(n, 32, 4, 4)
    d_quads = np.zeros((n, 32, 4, 4, 4), np.float32)
    np.put_along_axis(d_quads, winner[..., None], d_pool[..., None], -1)
    d_a2 = d_quads.reshape(n, 32, 4, 4, 2, 2).transpose(0, 1, 2, 4, 3, 5).reshape(a2.shape) * (a2 > 0)
    rows = d_a2.transpose(0, 2, 3, 1).reshape(-1, 32)
    g["conv2.w"], g["conv2.b"] = (rows.T @ col2).reshape(p["conv2.w"].shape), rows.sum(0)
    # The gradient of a padded 3x3 convolution with respect to its input is one with the kernel turned by 180 degrees.
    turned = p["conv2.w"][:, :, ::-1, ::-1].transpose(1, 0, 2, 3)
    d_a1 = conv(patches(d_a2), np.ascontiguousarray(turned), np.float32(0), n) * (a1 > 0)
    rows = d_a1.transpose(0, 2, 3, 1).reshape(-1, 16)
    g["conv1.w"], g["conv1.b"] = (rows.T @ col1).reshape(p["conv1.w"].shape), rows.sum(0)
    return g


def shifted(rng, x):
    """Every image moved by at most one pixel each way: digits are not always centred."""
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    down, right = rng.integers(0, 3, (2, len(x)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (SIDE, SIDE), axis=(2, 3))
    return windows[np.arange(len(x)), :, down, right]


def train(images, classes):
    rng = np.random.default_rng(SEED)
    p = initial(rng)
    first, second = ({k: np.zeros_like(v) for k, v in p.items()} for _ in range(2))
    steps_per_epoch = len(images) // BATCH
    total = EPOCHS * steps_per_epoch
    step = 0
    for _ in range(EPOCHS):
        order = rng.permutation(len(images))
        for i in range(steps_per_epoch):
            rows = order[i * BATCH:(i + 1) * BATCH]
            g = gradients(p, shifted(rng, images[rows]), classes[rows])
            step += 1
            rate = RATE * 0.5 * (1 + np.cos(np.pi * step / total))
            for k in p:
                first[k] = 0.9 * first[k] + 0.1 * g[k]
                second[k] = 0.999 * second[k] + 0.001 * g[k] ** 2
                m, v = first[k] / (1 - 0.9 ** step), second[k] / (1 - 0.999 ** step)
                p[k] = (p[k] - rate * (m / (np.sqrt(v) + 1e-8) + DECAY * p[k])).astype(np.float32)
    return p


def export(p):
    """The ONNX model: pixels float32 [N, 8, 8] in 0..16 -> probabilities float32 [N, 10], digit int64 [N]."""
    node = helper.make_node
    nodes = [
        node("Div", ["pixels", "white"], ["scaled"], "scale"),
        node("Unsqueeze", ["scaled", "channel"], ["image"], "channels"),
        node("Conv", ["image", "conv1.w", "conv1.b"], ["c1"], "conv1", kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        node("Relu", ["c1"], ["a1"], "relu1"),
        node("Conv", ["a1", "conv2.w", "conv2.b"], ["c2"], "conv2", kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        node("Relu", ["c2"], ["a2"], "relu2"),
        node("MaxPool", ["a2"], ["pooled"], "pool", kernel_shape=[2, 2], strides=[2, 2]),
        node("Flatten", ["pooled"], ["flat"], "flatten"),
        node("Gemm", ["flat", "hidden.w", "hidden.b"], ["h"], "hidden"),
        node("Relu", ["h"], ["a3"], "relu3"),
        node("Gemm", ["a3", "scores.w", "scores.b"], ["scores"], "scores"),
        node("Softmax", ["scores"], ["probabilities"], "softmax", axis=1),
        node("ArgMax", ["scores"], ["digit"], "argmax", axis=1, keepdims=0),
    ]
    weights = [numpy_helper.from_array(v, k) for k, v in p.items()]
    weights += [numpy_helper.from_array(np.array(16, np.float32), "white"),
                numpy_helper.from_array(np.array([1], np.int64), "channel")]
    graph = helper.make_graph(
        nodes, "digits",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["N", SIDE, SIDE])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", 10]),
         helper.make_tensor_value_info("digit", TensorProto.INT64, ["N"])],
        weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8,
                              producer_name="examples/digits/train.py")
    onnx.checker.check_model(model, full_check=True)
    return model


def write_samples(folder, images, classes):
    """The first held-out image of every class."""
    folder.mkdir(parents=True, exist_ok=True)
    for c in range(10):
        image = images[int(np.argmax(classes == c)), 0] * 16
        text = "\n".join(" ".join(f"{int(v):2d}" for v in row) for row in image)
        (folder / f"{c}.txt").write_text(text + "\n", encoding="ascii")


def main():
    here = Path(__file__).resolve().parent
    ap = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    ap.add_argument("--out", type=Path, default=here, help="for digits.onnx and samples/; default: beside this script")
    out = ap.parse_args().out
    (images, classes), (held_images, held_classes) = split(SEED)
    p = train(images, classes)
    accuracy = float((forward(p, held_images)[0].argmax(1) == held_classes).mean())
    print(f"{len(held_classes)} held-out images, {accuracy:.2%} right")
    if accuracy < 0.97:
        raise SystemExit("worse than 97 %: not written")
    out.mkdir(parents=True, exist_ok=True)
    path = out / "digits.onnx"
    path.write_bytes(export(p).SerializeToString(deterministic=True))
    write_samples(out / "samples", held_images, held_classes)
    print(f"{path}: {path.stat().st_size} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
