#!/usr/bin/env bash
# Falcon with alibi=True (Falcon-RW) adds a number to each score of attention, by how far two tokens
# are apart, instead of rotating queries and keys. transformers has it as "eager" and as "sdpa".
#
# A good guess: both give the same logits but for rounding, as they do with alibi=False.
# What happens: with alibi=True they are far apart. The model puts the numbers into the mask for both,
# and "eager" adds them to the scores once more. "sdpa", the default, adds them once; asking it for the
# attention weights (output_attentions) gives those of the second way.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 transformers==5.24.0

cat >"$folder/falcon.py" <<'PY'
import torch
from transformers import AutoModelForCausalLM, FalconConfig

SIZES = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
OLD = {"new_decoder_architecture": False, "multi_query": False, "parallel_attn": False}


@torch.no_grad()
def logits(alibi, kind, times=1):
    """The logits of 40 tokens. times: factor of the numbers that "eager" itself adds."""
    torch.manual_seed(0)
    config = FalconConfig(**SIZES, **OLD, alibi=alibi, initializer_range=0.3)
    model = AutoModelForCausalLM.from_config(config, attn_implementation=kind).eval()
    for block in model.transformer.h:
        attend = block.self_attention.forward
        block.self_attention.forward = lambda *given, attend=attend, alibi, **more: attend(
            *given, alibi=alibi if alibi is None else alibi * times, **more
        )
    return model(torch.arange(40)[None] * 7 % 64).logits


def verdict(one, other):
    """Say whether logits are the same, in parts of their spread."""
    off = (one - other).abs().max() / one.std()
    return "same" if off < 1e-3 else "far" if off > 0.1 else "near"


print(
    verdict(logits(False, "sdpa"), logits(False, "eager")),
    verdict(logits(True, "sdpa"), logits(True, "eager")),
    verdict(logits(True, "sdpa"), logits(True, "eager", times=0)),
)
PY
echo "transformers $("$folder/venv/bin/python" -W ignore -c 'import transformers as t; print(t.__version__)')"
seen="$("$folder/venv/bin/python" -W ignore "$folder/falcon.py" 2>/dev/null)"
echo "eager against sdpa without ALiBi, with it (the guess: same), and with it in the mask alone: $seen"
[ "$seen" = "same far same" ]
