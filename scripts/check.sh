#!/usr/bin/env bash
# Lint, format and types. Changes nothing.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/venv.sh

ensure_venv dev
ruff check .
ruff format --check .
mypy protocol frontend coordinator workers
