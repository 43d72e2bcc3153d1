#!/usr/bin/env bash
# From a clone to an answer: installs what is missing (Debian 12 and rustup are assumed), builds the compiler, writes
# all-MiniLM-L6-v2 as ONNX with its real weights, compiles it, builds the search program and asks it a question.
#
#     bash examples/quickstart.sh [QUERY [FILE]]
#
# What is up to date is not done again: the second time takes seconds.
set -euo pipefail
examples=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$examples/.." && pwd)
search=$examples/semantic-search
query=${1:-how do I get a stain out of a rug?}
# From the caller's folder, before any cd.
file=$(realpath "${2:-$search/lines.txt}")

# shellcheck source=examples/setup.sh
. "$examples/setup.sh"

steps=()
step() { # NAME COMMAND...: runs the command and notes its time
    local name=$1 start=$EPOCHREALTIME
    shift
    setup_say "$name"
    "$@"
    steps+=("$(printf '%-34s %7.1f s' "$name" "$(seconds_since "$start")")")
}

seconds_since() {
    local now=$EPOCHREALTIME
    # Both are seconds with six decimals; without the point they are whole microseconds. LC_NUMERIC may make it a comma.
    local micros=$(( ${now/[.,]/} - ${1/[.,]/} ))
    printf '%d.%06d' $((micros / 1000000)) $((micros % 1000000))
}

fresh() { # OUT IN...: whether OUT exists and no IN is newer
    local out=$1 in
    shift
    [ -e "$out" ] || return 1
    for in in "$@"; do
        [ ! "$in" -nt "$out" ] || return 1
    done
}

install() {
    setup_packages
    setup_python "$examples/requirements.txt"
}

build_compiler() {
    (cd "$root" && cargo build --release -p cameo)
    cameo=${CARGO_TARGET_DIR:-$root/target}/release/cameo
}

export_model() {
    fresh "$search/build/minilm.onnx" "$search/export_minilm.py" ||
        "$python" "$search/export_minilm.py" --out "$search/build"
}

compile_model() {
    fresh "$search/model/.compiled" "$search/build/minilm.onnx" "$cameo" && return
    rm -rf "$search/model"
    "$cameo" compile "$search/build/minilm.onnx" --emit rust -o "$search/model"
    touch "$search/model/.compiled"
}

build_search() {
    (cd "$search" && cargo build --release)
    answer=${CARGO_TARGET_DIR:-$search/target}/release/cameo-example-semantic-search
}

ask() {
    printf '\n%s\n\n' "$query"
    "$answer" "$query" "$file"
}

begin=$EPOCHREALTIME
export LC_ALL=C
step "install what is missing" install
step "build the compiler" build_compiler
step "write minilm.onnx" export_model
step "compile minilm.onnx" compile_model
step "build the search program" build_search
step "answer" ask
printf '\n'
printf '%s\n' "${steps[@]}"
printf '%-34s %7.1f s\n' "all" "$(seconds_since "$begin")"
