#!/usr/bin/env bash
# Cohere's language models multiply their logits by logit_scale of the configuration. Aya Vision and
# Command A Vision (cohere2_vision) are such a model that also takes pictures.
#
# A good guess: for a text without pictures they give the logits of their language model.
# What happens: logit_scale is left out, though it is in their text_config. The likeliest token is the
# same, but probabilities, and so sampling, are not: with a scale of 0.25 the logits are 4 times as large.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 transformers==5.24.0

cat >"$folder/scale.py" <<'PY'
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 64}
TEXT = {"vocab_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2, "logit_scale": 0.25}
PICTURES = {"num_attention_heads": 2, "image_size": 16, "patch_size": 8}


@torch.no_grad()
def scale(kind, text_kind):
    """By what the logits of the language model are those of the whole, for a text of 16 tokens."""
    torch.manual_seed(0)
    text = {"model_type": text_kind, **SIZES, **TEXT}
    pictures = {"model_type": "siglip_vision_model", **SIZES, **PICTURES}
    config = AutoConfig.for_model(kind, text_config=text, vision_config=pictures, image_token_id=63)
    whole = AutoModelForImageTextToText.from_config(config, dtype=torch.float32).eval()
    model = AutoModelForCausalLM.from_config(config.text_config, dtype=torch.float32).eval()
    model.model.load_state_dict(whole.model.language_model.state_dict())
    model.lm_head.weight = whole.lm_head.weight
    tokens = torch.arange(16)[None] * 7 % 62 + 1
    ours, theirs = model(tokens).logits, whole(input_ids=tokens).logits
    factor = float((ours * theirs).sum() / (theirs * theirs).sum())
    assert torch.allclose(ours, theirs * factor, atol=1e-5)
    return round(factor, 3)


for kinds in (("aya_vision", "cohere2"), ("aya_vision", "cohere"), ("cohere2_vision", "cohere2")):
    print(scale(*kinds), end=" ")
PY
echo "transformers $("$folder/venv/bin/python" -W ignore -c 'import transformers as t; print(t.__version__)')"
seen="$("$folder/venv/bin/python" -W ignore "$folder/scale.py" 2>/dev/null)"
echo "logits of the language model in parts of the whole model's, Aya Vision on cohere2 and on cohere,"
echo "Command A Vision (the guess: 1.0): $seen"
[ "$seen" = "0.25 0.25 0.25 " ]
