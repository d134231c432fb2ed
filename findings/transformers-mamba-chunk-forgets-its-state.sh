#!/usr/bin/env bash
# Models of Mamba keep a text so far as a state; transformers holds it in a DynamicCache, with which the
# text is continued by one token or by several.
#
# A good guess: with the cache of its first half, the second half of a text gets the logits it gets in a
# pass over the whole, in one piece or token by token.
# What happens: with layers of Mamba 1 (mamba, falcon_mamba, jamba) a piece of several tokens begins from
# a state of zeros, without an error; token by token is right. Mamba 2 is right in both ways. Jamba's
# generate() with prefill_chunk_size, which cuts the prompt in pieces, begins with other logits.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 transformers==5.24.0

cat >"$folder/pieces.py" <<'PY'
import torch
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache

SIZES = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "initializer_range": 0.3}
MAMBA2 = {"num_heads": 8, "head_dim": 8, "n_groups": 1, "state_size": 16, "chunk_size": 8}
JAMBA = {"num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 64}
JAMBA |= {"attn_layer_period": 2, "attn_layer_offset": 1, "num_experts": 2, "mamba_dt_rank": 4}
KINDS = {"mamba": {}, "falcon_mamba": {}, "jamba": JAMBA, "mamba2": MAMBA2}
TEXT = torch.arange(40)[None] * 7 % 64


def make(kind):
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **SIZES, **KINDS[kind])
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()


def verdict(one, other):
    """Say how far logits are from others, in parts of their spread."""
    off = (one - other).abs().max() / other.std()
    return "same" if off < 1e-3 else "far" if off > 0.1 else "near"


@torch.no_grad()
def compare(model, sizes):
    """Say how far the logits of the text in pieces are from those of the whole."""
    cache = DynamicCache(config=model.config)
    pieces = [model(piece, cache=cache, use_cache=True).logits for piece in TEXT.split(sizes, 1)]
    whole = model(TEXT).logits
    return verdict(torch.cat(pieces, 1), whole)


for kind in KINDS:
    model = make(kind)
    print(kind, compare(model, [20] + [1] * 20), compare(model, [20, 20]), end="; ")
options = {"max_new_tokens": 1, "output_logits": True, "return_dict_in_generate": True}
model = make("jamba")
first = model.generate(TEXT, **options).logits[0]
in_chunks = model.generate(TEXT, prefill_chunk_size=19, **options).logits[0]
print("generate", verdict(in_chunks, first))
PY
echo "transformers $("$folder/venv/bin/python" -W ignore -c 'import transformers as t; print(t.__version__)')"
seen="$("$folder/venv/bin/python" -W ignore "$folder/pieces.py" 2>/dev/null)"
echo "second half token by token, and in one piece (the guess: same); Jamba's generate in chunks:"
echo "$seen"
[ "$seen" = "mamba same far; falcon_mamba same far; jamba same far; mamba2 same same; generate far" ]
