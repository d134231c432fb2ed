#!/usr/bin/env bash
# Moshi's language model has sliding_window in its configuration, as Mistral has: how many tokens back a
# token may look.
#
# A good guess: the window counts with and without a cache, as it does in Mistral.
# What happens: the cache keeps the newest tokens only, but a pass over a longer text lets each token look
# at all before it. So decoding and generate() differ from a pass over the whole text from the first token
# on that has the whole window before it, and one prompt gets other logits in one pass than in two.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 transformers==5.24.0

cat >"$folder/window.py" <<'PY'
import torch
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache, MoshiForCausalLM

SIZES = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
SIZES |= {"num_key_value_heads": 4, "max_position_embeddings": 100, "initializer_range": 0.3}
TEXT = torch.arange(60)[None] * 7 % 64


@torch.no_grad()
def first_other(kind, window):
    """The first token that has other logits one by one than in a pass over the whole, or None."""
    torch.manual_seed(0)
    inner = {"ffn_dim": 64} if kind == "moshi" else {"intermediate_size": 64}
    config = AutoConfig.for_model(kind, **SIZES, **inner, sliding_window=window)
    make = MoshiForCausalLM if kind == "moshi" else AutoModelForCausalLM.from_config
    model = make(config).eval()
    cache = DynamicCache(config=config)
    steps = [model(token, cache=cache, use_cache=True).logits for token in TEXT.split(1, 1)]
    off = (torch.cat(steps, 1) - model(TEXT).logits)[0].abs().amax(-1)
    return next((place for place, by in enumerate(off.tolist()) if by > 1e-3), None)


print(first_other("mistral", 24), first_other("moshi", 100), first_other("moshi", 24))
PY
echo "transformers $("$folder/venv/bin/python" -W ignore -c 'import transformers as t; print(t.__version__)')"
seen="$("$folder/venv/bin/python" -W ignore "$folder/window.py" 2>/dev/null)"
echo "first token whose logits differ with a cache (the guess: None): Mistral with a window of 24,"
echo "Moshi with one of 100, Moshi with one of 24: $seen"
[ "$seen" = "None None 24" ]
