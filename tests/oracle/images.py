#!/usr/bin/env python3
"""Compares images that programs decode with what Pillow makes of the same files.

    python images.py [--seed N]

Every format is written by Pillow in several of its forms, at several sizes, and decoded to each pixel format. Pixels must be
equal, but for JPEG 2000 that loses something: the standard leaves the rounding of its wavelets open. Bytes that are changed
or cut must end a run with an error or give an image, never end the process otherwise.
"""

import argparse
import io
import random
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper
from PIL import Image

from compiled import Checks, Compiled, Failed

FORMATS = {"RGB": "RGB", "BGR": "RGB", "Grayscale": "L"}
SIZES = [(1, 1), (7, 3), (16, 16), (33, 50), (64, 129)]  # height, width
# Format, modes of images, options of `save`, largest difference.
FILES = [
    ("bmp", "RGB L P 1", {}, 0),
    ("png", "RGB RGBA L LA P 1", {}, 0),
    ("ppm", "RGB L 1", {}, 0),
    ("tiff", "RGB RGBA L 1", {}, 0),
    ("tiff", "RGB L", {"compression": "tiff_lzw"}, 0),
    ("tiff", "RGB L", {"compression": "tiff_adobe_deflate"}, 0),
    ("tiff", "RGB", {"compression": "packbits"}, 0),
    ("webp", "RGB RGBA L", {"lossless": True}, 0),
    ("webp", "RGB L", {"quality": 70}, 0),
    ("jpeg2000", "RGB RGBA L", {}, 0),
    ("jpeg2000", "RGB L", {"irreversible": True, "quality_layers": [10]}, 2),
    *[("jpeg", "RGB", {"quality": quality, "subsampling": subsampling}, 0) for quality in (30, 90) for subsampling in (0, 1, 2)],
    ("jpeg", "RGB L", {"progressive": True}, 0),
    ("jpeg", "RGB", {"optimize": True, "restart_marker_blocks": 2}, 0),
]
BROKEN = 12  # changes to a file of each format


def picture(mode, height, width, rng):
    """Slopes, edges and noise, in colours."""
    y, x = np.mgrid[:height, :width]
    channels = [x * 5 + y * 3, 255 - y * 7, (x // 4 + y // 4) % 2 * 200]
    image = np.stack(channels, axis=-1) % 256 + rng.integers(-9, 10, (height, width, 3))
    image = np.clip(image, 0, 255).astype(np.uint8)
    if mode in ("RGBA", "LA"):
        image = np.dstack([image, rng.integers(0, 256, (height, width), dtype=np.uint8)])
        return Image.fromarray(image, "RGBA").convert(mode)
    return Image.fromarray(image, "RGB").convert(mode)


def written(image, kind, options):
    with io.BytesIO() as file:
        image.save(file, format=kind, **options)
        return file.getvalue()


def expected(file, pixel_format):
    pixels = np.array(Image.open(io.BytesIO(file)).convert(FORMATS[pixel_format]))
    return {"RGB": pixels, "BGR": pixels[..., ::-1]}.get(pixel_format, pixels[..., None])


def write(pixel_format, path):
    node = helper.make_node("ImageDecoder", ["bytes"], ["image"], pixel_format=pixel_format)
    info = [helper.make_tensor_value_info(name, TensorProto.UINT8, shape)
            for name, shape in (("bytes", ["N"]), ("image", [None, None, None]))]
    graph = helper.make_graph([node], path.stem, info[:1], info[1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)


def run(program, file):
    return program.run({"bytes": np.frombuffer(file, dtype=np.uint8)})["image"]


def wrong(got, want, most):
    """What is wrong with the pixels; None: nothing."""
    if got.shape != want.shape:
        return f"{list(got.shape)}, expected {list(want.shape)}"
    apart = np.abs(got.astype(int) - want.astype(int))
    return f"{np.count_nonzero(apart)} of {apart.size} differ, by up to {apart.max()}" if apart.max(initial=0) > most else None


def broken(program, file, random):
    """What is wrong with a run on each of some changes of a file."""
    for _ in range(BROKEN):
        changed = bytearray(file)
        if random.random() < 0.3:
            del changed[random.randrange(len(changed)):]
        else:
            for _ in range(random.choice([1, 3, 20])):
                changed[random.randrange(len(changed))] = random.randrange(256)
        try:
            run(program, bytes(changed))
        except Failed as error:
            if "the image cannot be decoded: " not in str(error):
                yield str(error)


def main():
    ap = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    ap.add_argument("--seed", type=int, default=0)
    args = ap.parse_args()
    rng, changes, checks = np.random.default_rng(args.seed), random.Random(args.seed), Checks()
    with tempfile.TemporaryDirectory() as folder:
        programs = {}
        for pixel_format in FORMATS:
            model = Path(folder) / f"{pixel_format}.onnx"
            write(pixel_format, model)
            programs[pixel_format] = Compiled(model, folder)
        for kind, modes, options, most in FILES:
            name = " ".join([kind, *(f"{option}={value}" for option, value in options.items())])
            for mode in modes.split():
                problems = []
                for height, width in SIZES:
                    file = written(picture(mode, height, width, rng), kind, options)
                    for pixel_format, program in programs.items():
                        try:
                            said = wrong(run(program, file), expected(file, pixel_format), most)
                        except Failed as error:
                            said = str(error)
                        if said:
                            problems.append(f"{height}x{width} as {pixel_format}: {said}")
                checks.add(not problems, f"{name}, {mode}: {'; '.join(problems) or 'as Pillow'}")
            problems = list(broken(programs["RGB"], file, changes))
            checks.add(not problems, f"{name}, changed: {'; '.join(problems) or 'errors or images'}")
    return checks.code()


if __name__ == "__main__":
    sys.exit(main())
