#!/usr/bin/env bash
# GGUF files name their pre-tokenizer in tokenizer.ggml.pre: how text is cut before merges are applied.
# llama.cpp refuses a name that it does not know. transformers knows some of llama.cpp's names: llama-bpe,
# qwen2, tekken and others.
#
# A good guess: a name that transformers does not know is an error, or at least a warning.
# What happens: it is taken for GPT-2's without a word. So the files of SmolLM ("smollm", which cuts each
# digit off) load, and their numbers become other tokens than those that the model has learned.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    torch==2.13.0 transformers==5.24.0 gguf==0.19.0 numpy==2.4.6
cd "$folder"

cat >write.py <<'PY'
import sys

import numpy as np
from gguf import GGUFWriter, TokenType
from tokenizers import pre_tokenizers

letters = sorted(pre_tokenizers.ByteLevel.alphabet())
tokens = [*letters, "12"]
writer = GGUFWriter("model.gguf", "llama")
writer.add_context_length(2048)
writer.add_embedding_length(32)
writer.add_block_count(0)
writer.add_feed_forward_length(64)
writer.add_head_count(4)
writer.add_layer_norm_rms_eps(1e-5)
writer.add_vocab_size(len(tokens))
writer.add_tokenizer_model("gpt2")
writer.add_tokenizer_pre(sys.argv[1])
writer.add_token_list(tokens)
writer.add_token_types([TokenType.NORMAL] * len(tokens))
writer.add_token_merges(["1 2"])
writer.add_tensor("token_embd.weight", np.ones((len(tokens), 32), np.float32))
writer.add_tensor("output_norm.weight", np.ones(32, np.float32))
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()
PY
cat >read.py <<'PY'
from transformers import AutoTokenizer

print(*AutoTokenizer.from_pretrained(".", gguf_file="model.gguf").tokenize("12"))
PY
venv/bin/pip list 2>/dev/null | grep -E "^(transformers|gguf) "
seen=""
said=""
for name in gpt-2 qwen2 smollm; do
    venv/bin/python write.py "$name"
    seen+="$name $(venv/bin/python -W ignore read.py 2>"messages-$name"); "
    said+="$(grep -ciE "pre.?tokenizer|$name" "messages-$name" || true) "
done
echo "tokens of 12 by pre-tokenizer (the guess: smollm as qwen2, 1 and 2, or an error): $seen"
echo "lines about it on stderr: $said"
[ "$seen" = "gpt-2 12; qwen2 1 2; smollm 12; " ] && [ "$said" = "0 0 0 " ]
