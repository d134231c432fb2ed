#!/usr/bin/env bash
# Lint, format, types, and the tables of flags. Changes nothing.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/venv.sh"
cd "$root"

ensure_venv dev
"$venv/bin/ruff" check .
"$venv/bin/ruff" format --check .
"$venv/bin/mypy" -p headrace -p bench -p tests
"$venv/bin/python" -P scripts/flag_tables.py --check
