#!/usr/bin/env python3
"""Compares networks compiled for other processors than this one with ONNX Runtime.

    rustup target add aarch64-unknown-linux-gnu     # and Debian's gcc-aarch64-linux-gnu, libc6-dev-arm64-cross, qemu-user
    CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc cargo rustc -p cameo-exe --release \\
        --crate-type staticlib --target aarch64-unknown-linux-gnu
    python cross.py --zoo DIR [--cache DIR] [--threads N] --runtime FILE NAME...

The runtime is the libcameo_exe.a that the second command wrote. Programs run in QEMU's user mode, which is slow: small
networks take seconds, ResNet-50 minutes.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from compiled import Checks, Compiled, call, compiler
from match import compare
from zoo import test_cases, written

TRIPLE = "aarch64-unknown-linux-gnu"


class Emulated(Compiled):
    """A program for aarch64, of the compiler's object file and the runtime."""

    def __init__(self, model, folder, runtime):
        self.folder = Path(folder)
        name = Path(model).stem
        call([compiler(), "compile", "-q", model, "--target", TRIPLE, "--cpu", "generic", "--emit", "object", "-o", self.folder / "object"])
        main = self.folder / "main.c"
        main.write_text("struct model; extern const struct model %s_model;\n"
                        "int cameo_exe_main(int, char **, const struct model *, void *);\n"
                        "int main(int n, char **v) { return cameo_exe_main(n, v, &%s_model, 0); }\n" % (name, name))
        program = self.folder / "object" / name
        call(["aarch64-linux-gnu-gcc", "-o", program, main, program.with_suffix(".o"), runtime, "-lpthread", "-ldl", "-lm"])
        # What is started is a script, so that runs are the same as natively.
        self.path = self.folder / name
        self.path.write_text(f'#!/bin/sh\nexec qemu-aarch64 -L /usr/aarch64-linux-gnu {program} '
                             f'--weights {program}.weights "$@"\n')
        self.path.chmod(0o755)


def main():
    ap = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    ap.add_argument("names", nargs="+")
    ap.add_argument("--zoo", type=Path, required=True)
    ap.add_argument("--cache", type=Path, help="keep the written models here")
    ap.add_argument("--threads", type=int, default=2)
    ap.add_argument("--runtime", type=Path, required=True)
    args = ap.parse_args()
    checks = Checks()
    for name in args.names:
        with tempfile.TemporaryDirectory() as folder:
            model = written(args.zoo, name, args.cache or folder)
            build = lambda *where: Emulated(*where, args.runtime.resolve())
            compare(checks, model, test_cases(args.zoo, name), args.threads, build=build)
    return checks.code()


if __name__ == "__main__":
    sys.exit(main())
