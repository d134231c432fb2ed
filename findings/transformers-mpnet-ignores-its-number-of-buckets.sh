#!/usr/bin/env bash
# MPNet adds a number to each score of attention, by how far two tokens are apart; distances are sorted
# into `relative_attention_num_buckets` buckets, each with a row in a table that is learned.
#
# A good guess: the configuration's number decides into how many buckets distances are sorted, as it
# does in T5, which has the same table and the same name for it.
# What happens: the table has that many rows, but distances are sorted into 32 buckets whatever it is.
# With 64 the last 32 rows change nothing, and with 16 a longer text is an IndexError.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 transformers==5.24.0

cat >"$folder/buckets.py" <<'PY'
import torch
from transformers import MPNetConfig, MPNetModel


def run(buckets, added):
    """The vectors of a text of 300 tokens; `added` to all rows of the table from 32 on."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 100, "hidden_size": 32, "num_hidden_layers": 1}
    sizes |= {"num_attention_heads": 2, "intermediate_size": 64}
    config = MPNetConfig(**sizes, relative_attention_num_buckets=buckets)
    model = MPNetModel(config).eval()
    table = model.encoder.relative_attention_bias.weight
    with torch.no_grad():
        table.normal_()
        table[32:] += added
        return len(table), model(torch.arange(300)[None] % 90 + 5).last_hidden_state


rows, plain = run(64, 0.0)
same = torch.equal(plain, run(64, 100.0)[1])
try:
    run(16, 0.0)
    small = "runs"
except IndexError:
    small = "IndexError"
print(rows, same, small)
PY
echo "transformers $("$folder/venv/bin/python" -W ignore -c 'import transformers as t; print(t.__version__)')"
seen="$("$folder/venv/bin/python" -W ignore "$folder/buckets.py" 2>/dev/null)"
echo "rows with 64; same vectors with other rows from 32 on (the guess: no); 16 (the guess: runs): $seen"
[ "$seen" = "64 True IndexError" ]
