#!/usr/bin/env bash
# transformers 5 keeps the parameters of rotary embeddings in `rope_parameters`, which holds
# `rope_theta` too; config.json files of before have `rope_scaling` and `rope_theta` beside it.
#
# A good guess: of a config that has both forms, such as a new file with an old override over it, the
# new form counts, or they are merged.
# What happens: the old `rope_scaling` replaces all of `rope_parameters`, and `rope_theta` that was in
# the latter is gone: the model's default base is used, without a warning.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check transformers==5.24.0

cat >"$folder/rope.py" <<'PY'
from transformers import AutoConfig

new = {"rope_type": "default", "rope_theta": 500000.0}
old = {"rope_type": "linear", "factor": 4.0}
alone = AutoConfig.for_model("llama", rope_parameters=dict(new)).rope_parameters
both = AutoConfig.for_model("llama", rope_parameters=dict(new), rope_scaling=dict(old)).rope_parameters
print(alone["rope_theta"], both["rope_type"], both.get("rope_theta"))
PY
echo "transformers $("$folder/venv/bin/python" -W ignore -c 'import transformers as t; print(t.__version__)')"
seen="$("$folder/venv/bin/python" -W ignore "$folder/rope.py" 2>/dev/null)"
echo "theta of the new form alone; type and theta with both (the guess: the theta stays): $seen"
[ "$seen" = "500000.0 linear 10000.0" ]
