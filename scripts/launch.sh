#!/usr/bin/env bash
# Set up what is missing and serve a model in the foreground.
# Usage: scripts/launch.sh [MODEL] [FLAGS of `headrace serve`]; --help lists them.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/venv.sh"

ensure_venv
case " $* " in
" "[!-\ ]*) ;; # a model comes first
*" --model "* | *" --model="* | *" --help "* | *" -h "*) ;;
# A --config may omit a group's model as well.
*) ensure_default_model ;;
esac
exec "$venv/bin/headrace" serve "$@"
