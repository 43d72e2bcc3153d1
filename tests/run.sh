#!/usr/bin/env bash
# Every check of the repository: format, lints, the Rust tests, the compiled models against ONNX Runtime, the examples.
#
#     bash tests/run.sh
#
# Installs what is missing (see examples/setup.sh). All checks run even when one fails; the last line says
# "N passed, M failed" and the exit code is 0 when M is 0. CAMEO_ZOO names a folder as oracle/zoo.py describes it:
# then its networks are compared as well, kept in CAMEO_ZOO_CACHE when that is set.
set -uo pipefail
tests=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$tests/.." && pwd)
examples=$root/examples
search=$examples/semantic-search
cd "$root" || exit 1
export LC_ALL=C CARGO_TERM_COLOR=never
# Nothing is built twice here, and what rebuilds would need takes gigabytes.
export CARGO_INCREMENTAL=0

# shellcheck source=examples/setup.sh
. "$examples/setup.sh"

passed=0
failed=0
failures=()
log=$(mktemp)
trap 'rm -f "$log"' EXIT

# The sum of the numbers before a word in the closing lines of nextest, of cargo test and of our scripts.
counted() {
    awk -v word="$1" '
        /Summary \[/ || /^test result:/ || /^[0-9]+ passed, [0-9]+ failed$/ {
            while (match($0, "[0-9]+ " word)) {
                sum += substr($0, RSTART) + 0
                $0 = substr($0, RSTART + RLENGTH)
            }
        }
        END { print sum + 0 }' "$log"
}

# NAME COMMAND...: runs the command; counts the tests that its output reports, or else the command itself.
check() {
    local name=$1 code good bad
    shift
    setup_say "$name"
    "$@" 2>&1 | tee "$log"
    code=${PIPESTATUS[0]}
    good=$(counted passed)
    bad=$(counted failed)
    if [ "$code" -ne 0 ] && [ "$bad" -eq 0 ]; then
        bad=1
    elif [ "$code" -eq 0 ] && [ $((good + bad)) -eq 0 ]; then
        good=1
    fi
    passed=$((passed + good))
    failed=$((failed + bad))
    [ "$bad" -eq 0 ] || failures+=("$name: $bad")
}

rust_tests() {
    if cargo nextest --version >/dev/null 2>&1; then
        cargo nextest run --workspace --no-fail-fast --status-level fail --final-status-level fail
    else
        cargo test --workspace --no-fail-fast --quiet
    fi
}

digits_program() {
    local line number=0
    while IFS= read -r line; do
        # samples/3.txt: 3 (100.0 %)
        [[ $line == "samples/$number.txt: $number ("* ]] || { printf 'wrong: %s\n' "$line"; return 1; }
        number=$((number + 1))
    done < <("$examples/digits/run.sh")
    [ "$number" -eq 10 ] || { printf 'expected 10 lines, got %d\n' "$number"; return 1; }
}

custom_operator() {
    local out
    out=$("$examples/custom_op/run.sh") || return 1
    printf '%s\n' "$out"
    # With the operator in a library, and linked in.
    [ "$(grep -c '^energy: float32 \[4\]$' <<<"$out")" -eq 2 ] || { echo 'wrong answer'; return 1; }
}

quickstart() {
    local out
    out=$("$examples/quickstart.sh" "my wifi is broken") || return 1
    printf '%s\n' "$out"
    # PyTorch's weights give this line 0.410 and the next one 0.199.
    [[ $out == *$'\n'" 0.410  Turn the router off and on again"* ]] || { echo 'wrong answer'; return 1; }
}

# Exits with a message when something cannot be installed: nothing below could run.
set -e
setup_packages
setup_python "$examples/requirements.txt"
setup_python "$tests/oracle/requirements.txt"
setup_python "$tests/report/requirements.txt"
setup_chromium
if command -v rustup >/dev/null; then
    cargo fmt --version >/dev/null 2>&1 || rustup component add rustfmt
    cargo clippy --version >/dev/null 2>&1 || rustup component add clippy
fi
set +e

check "format" cargo fmt --all --check
check "format of the examples" rustfmt --edition 2024 --check "$search/src/main.rs"
check "lints" cargo clippy --quiet --workspace --all-targets -- -D warnings
check "Rust tests" rust_tests
check "release build" cargo build --quiet --release -p cameo
check "digits against ONNX Runtime" "$python" "$tests/oracle/match.py" "$examples/digits/digits.onnx" \
    --at N=1 --at N=7 --at N=64
check "light models" "$python" "$tests/oracle/light.py"
check "ONNX's own tests" "$python" "$tests/oracle/backend.py"
check "ONNX's runner and the Python backend" env CAMEO="$root/target/release/cameo" "$python" \
    "$examples/python/cameo_backend.py" "^test_(gemm_all_attributes|quantizelinear_int4|reduce_sum_keepdims_random|nonzero_example)_cpu"
check "random nodes" "$python" "$tests/oracle/fuzz.py"
check "contributed operators" "$python" "$tests/oracle/contrib.py"
check "loops over time" "$python" "$tests/oracle/loops.py"
check "recurrent layers" "$python" "$tests/oracle/recurrent.py"
check "cut networks" "$python" "$tests/oracle/slice.py"
check "computed sizes" "$python" "$tests/oracle/sizes.py"
check "results as long as data says" "$python" "$tests/oracle/counted.py"
check "sizes that a run computes" "$python" "$tests/oracle/lengths.py"
check "images" "$python" "$tests/oracle/images.py"
check "strings" "$python" "$tests/oracle/strings.py"
check "padded sequences" "$python" "$tests/oracle/packed.py" ${CAMEO_ZOO:+--zoo "$CAMEO_ZOO"} \
    ${CAMEO_ZOO_CACHE:+--cache "$CAMEO_ZOO_CACHE"}
check "masked networks" "$python" "$tests/oracle/masks.py"
check "benches" "$python" "$tests/bench/check.py"
check "digits in C" digits_program
check "an operator in C" custom_operator
# The quickstart also writes minilm.onnx.
check "quickstart" quickstart
check "report in Chromium" "$python" "$tests/report/run.py" "$search/build/minilm.onnx" "$examples/digits/digits.onnx"
check "tests of the search program" cargo test --quiet --release --manifest-path "$search/Cargo.toml"
check "MiniLM against ONNX Runtime" "$python" "$tests/oracle/match.py" "$search/build/minilm.onnx" \
    --at B=1,S=16 --at B=3,S=77 --at B=8,S=128 --at B=1,S=512
if [ -n "${CAMEO_ZOO:-}" ]; then
    check "zoo" "$python" "$tests/oracle/zoo.py" --zoo "$CAMEO_ZOO" ${CAMEO_ZOO_CACHE:+--cache "$CAMEO_ZOO_CACHE"}
fi

printf '\n'
[ ${#failures[@]} -eq 0 ] || printf 'failed: %s\n' "${failures[@]}"
printf '%d passed, %d failed\n' "$passed" "$failed"
[ "$failed" -eq 0 ]
