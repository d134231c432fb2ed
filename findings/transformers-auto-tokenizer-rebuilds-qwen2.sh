#!/usr/bin/env bash
# tokenizer.json holds all of a tokenizer: normalizer, pre-tokenizer, vocabulary, merges. With
# "tokenizer_class": "PreTrainedTokenizerFast" in tokenizer_config.json a folder says that this file counts.
#
# A good guess: AutoTokenizer gives such a folder's text the tokens that the tokenizers package gives it
# with its tokenizer.json; the model's type makes no difference.
# What happens: with "model_type": "qwen2" in config.json only vocabulary and merges are taken from
# tokenizer.json, and normalizer and pre-tokenizer are those of Qwen2, without a warning. With the type
# qwen3, which has the same tokenizer class, or without a config.json the file counts.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check transformers==5.24.0
cd "$folder"

cat >split.py <<'PY'
import json
from pathlib import Path

from tokenizers import Tokenizer, normalizers, pre_tokenizers
from tokenizers.models import BPE
from transformers import AutoTokenizer

names = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "<|endoftext|>", "12", "ab"]
vocabulary = {name: number for number, name in enumerate(names)}
own = Tokenizer(BPE(vocab=vocabulary, merges=[("1", "2"), ("a", "b")]))
own.normalizer = normalizers.Lowercase()
own.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
print("file", *own.encode("AB12").tokens, end="; ")
for kind in (None, "qwen3", "qwen2"):
    folder = Path(f"model-{kind}")
    folder.mkdir()
    own.save(str(folder / "tokenizer.json"))
    said = {"tokenizer_class": "PreTrainedTokenizerFast"}
    (folder / "tokenizer_config.json").write_text(json.dumps(said))
    if kind:
        (folder / "config.json").write_text(json.dumps({"model_type": kind}))
    print(kind, *AutoTokenizer.from_pretrained(folder).tokenize("AB12"), end="; ")
PY
echo "transformers $(venv/bin/python -W ignore -c 'import transformers as t; print(t.__version__)')"
seen="$(venv/bin/python -W ignore split.py 2>/dev/null)"
echo "tokens of AB12 by the file, and by AutoTokenizer for types of models (the guess: the same):"
echo "$seen"
[ "$seen" = "file ab 12; None ab 12; qwen3 ab 12; qwen2 A B 1 2; " ]
