# Installs what is missing to build Cameo on Debian 12; sourced by quickstart.sh and tests/run.sh.
#
#     . examples/setup.sh
#     setup_packages                      # LLVM 22 and a C++ compiler through apt, cargo onto PATH
#     setup_python requirements.txt       # .venv with exactly these packages; sets $python
#     setup_chromium                      # the browser, for the tests of reports only
#
# All look first and change nothing when all is there. apt runs through sudo unless the user is root.
# shellcheck shell=bash

setup_root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

# LLVM 22 is in Debian's security archive. libpolly and libclang-common are needed by the link and by bindgen although
# nothing depends on them; g++ compiles one file of the table generator; python3-venv is not in a minimal Python.
setup_debian=(
    llvm-22-dev libmlir-22-dev libpolly-22-dev libclang1-22 libclang-common-22-dev libzstd-dev zlib1g-dev libxml2-dev
    gcc g++ libc6-dev binutils python3 python3-venv ca-certificates
)

setup_say() {
    printf '== %s\n' "$*"
}

setup_fail() {
    printf 'setup: %s\n' "$*" >&2
    exit 1
}

# The packages of "$@" that dpkg does not know as installed.
setup_missing() {
    local package
    for package in "$@"; do
        # Two letters: what is wanted and what is; the second is `i` when installed.
        [[ $(dpkg-query -W -f '${db:Status-Abbrev}' "$package" 2>/dev/null) == ?i* ]] || printf '%s\n' "$package"
    done
}

# Installs the packages "$@".
setup_apt() {
    local as_root=()
    setup_say "apt-get install $*"
    if [ "$(id -u)" -ne 0 ]; then
        command -v sudo >/dev/null || setup_fail "as root, run: apt-get install $*"
        as_root=(sudo)
    fi
    "${as_root[@]}" apt-get update -qq
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@"
}

setup_packages() {
    if command -v dpkg-query >/dev/null; then
        local missing=()
        mapfile -t missing < <(setup_missing "${setup_debian[@]}")
        [ ${#missing[@]} -eq 0 ] || setup_apt "${missing[@]}"
    elif [ ! -x /usr/lib/llvm-22/bin/llvm-config ]; then
        setup_fail "not Debian: install LLVM 22 with MLIR, Polly and libclang, and point .cargo/config.toml at it"
    fi
    if ! command -v cargo >/dev/null && [ -f "$HOME/.cargo/env" ]; then
        # shellcheck source=/dev/null
        . "$HOME/.cargo/env"
    fi
    command -v cargo >/dev/null || setup_fail "cargo is missing: install Rust from https://rustup.rs"
}

setup_chromium() {
    [ ! -x /usr/bin/chromium ] || return 0
    command -v apt-get >/dev/null || setup_fail "not Debian: install Chromium as /usr/bin/chromium"
    setup_apt chromium
}

# A virtual environment that holds the packages of a requirements file; `$python` is its interpreter.
setup_python() {
    local requirements=$1 venv=$setup_root/.venv stamp
    python=$venv/bin/python
    stamp=$venv/$(printf '%s' "${requirements#"$setup_root"/}" | tr / -)
    # The stamp is a copy of the file that was installed: a changed pin installs again.
    if ! cmp -s "$requirements" "$stamp" || ! "$python" -c '' 2>/dev/null; then
        setup_say "python packages of ${requirements#"$setup_root"/}"
        [ -x "$python" ] || python3 -m venv "$venv"
        "$python" -m pip install --quiet --disable-pip-version-check -r "$requirements"
        cp "$requirements" "$stamp"
    fi
}
