#!/usr/bin/env bash
# model2vec makes tables of embeddings: a text's vector is the mean of its tokens' rows. It saves them
# with a modules.json, so that sentence-transformers reads them, too.
#
# A good guess: both give a text the same vector.
# What happens: model2vec leaves unknown tokens out of the mean, sentence-transformers counts their row
# like any other's. So texts with unknown words differ; those without are the same.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    torch==2.13.0 transformers==5.24.0 sentence-transformers==6.2.0 model2vec==0.10.0

cat >"$folder/table.py" <<'PY'
import sys

import numpy as np
from model2vec import StaticModel
from sentence_transformers import SentenceTransformer
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

words = {"[UNK]": 0, "[PAD]": 1, "river": 2, "bank": 3}
tokenizer = Tokenizer(WordLevel(words, unk_token="[UNK]"))
tokenizer.pre_tokenizer = Whitespace()
table = np.array([[9, 0], [0, 0], [0, 1], [0, 2]], np.float32)
own = StaticModel(vectors=table, tokenizer=tokenizer, normalize=False)
own.save_pretrained(sys.argv[1])
other = SentenceTransformer(sys.argv[1], device="cpu")
for text in ("river bank", "river xyz bank"):
    print([float(x) for x in own.encode(text)], [float(x) for x in other.encode(text)], end="; ")
PY
"$folder/venv/bin/python" -W ignore -c 'from importlib.metadata import version as v
print("model2vec", v("model2vec"), "sentence-transformers", v("sentence-transformers"))'
seen="$("$folder/venv/bin/python" -W ignore "$folder/table.py" "$folder/model" 2>/dev/null)"
echo "vectors of both, of known words and with an unknown one (the guess: the same): $seen"
[ "$seen" = "[0.0, 1.5] [0.0, 1.5]; [0.0, 1.5] [3.0, 1.0]; " ]
