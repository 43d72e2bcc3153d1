#!/usr/bin/env bash
# Compiles digits.onnx to a static library, links digits.c with it and classifies files (default: samples/*.txt).
#
#     examples/digits/run.sh [FILE...]
#
# Needs cc and the built compiler (`cargo build --release -p cameo`); CAMEO names another one.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
cameo=${CAMEO:-${CARGO_TARGET_DIR:-$root/target}/release/cameo}
out=$here/build

if [ ! -x "$cameo" ]; then
    echo "$cameo is not there: run 'cargo build --release -p cameo' first" >&2
    exit 1
fi
made=$out/digits
if [ ! "$made" -nt "$here/digits.onnx" ] || [ ! "$made" -nt "$here/digits.c" ] || [ ! "$made" -nt "$cameo" ]; then
    "$cameo" compile -q "$here/digits.onnx" --emit static --embed-weights -o "$out/"
    cc -std=c11 -O2 -Wall -Wextra -I "$out" -I "$root/runtime/include" "$here/digits.c" "$out/libdigits.a" \
        -Wl,--gc-sections -lpthread -ldl -lm -o "$made"
fi
if [ $# -eq 0 ]; then
    cd "$here"
    set -- samples/*.txt
fi
exec "$made" "$@"
