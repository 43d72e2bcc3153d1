#!/usr/bin/env bash
# Compiles frames.onnx, whose operator com.acme::Frames is in frames.c, and runs it: once with the operator in a library,
# once with it linked in.
#
#     examples/custom_op/run.sh
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
mkdir -p "$out"
flags=(-std=c11 -O2 -Wall -Wextra -Werror -fPIC -I "$root/runtime/include")
cc "${flags[@]}" -shared "$here/frames.c" -o "$out/libframes.so"
cc "${flags[@]}" -c "$here/frames.c" -o "$out/frames.o"
declared='com.acme::Frames(f32) -> f32[2], i64[1]'
"$cameo" compile -q "$here/frames.onnx" --custom-op "$declared" -o "$out/frames"
"$cameo" compile -q "$here/frames.onnx" --custom-op "$declared" --link "$out/frames.o" -o "$out/linked"
"$out/frames" --op-library "$out/libframes.so" --inputs "$here/signal.npz"
"$out/linked" --inputs "$here/signal.npz"
