#!/usr/bin/env bash
# Mamba 2 computes a step's size, dt, for each token and head. zamba2 and nemotron_h have a least step in
# their configuration, time_step_min, 0.001 by default; mamba2 has one in time_step_limit, 0 by default.
#
# A good guess: the limit counts for every token alike, so that decoding with a cache gives the logits of
# a pass over the whole text.
# What happens: a pass over several tokens raises dt to the limit, the pass over one token does not. Where
# dt is less, a token's logits differ between the two. nemotron_h has a time_step_limit, too, (0, inf) by
# default, which nothing reads.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 transformers==5.24.0

cat >"$folder/steps.py" <<'PY'
import torch
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache

SIZES = {"vocab_size": 64, "hidden_size": 32, "initializer_range": 0.3, "chunk_size": 8}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 4, "intermediate_size": 64}
MAMBA2 = {"num_heads": 8, "head_dim": 8, "n_groups": 1, "state_size": 16, "num_hidden_layers": 2}
NEMOTRON = HEADS | {"layers_block_type": ["mamba", "attention"], "head_dim": 8, "n_groups": 1}
NEMOTRON |= {"ssm_state_size": 16, "mamba_num_heads": 8, "mamba_head_dim": 8}
ZAMBA = HEADS | {"layers_block_type": ["mamba", "hybrid"], "num_hidden_layers": 2}
ZAMBA |= {"mamba_d_state": 16, "mamba_ngroups": 1, "n_mamba_heads": 8}
KINDS = {"mamba2": MAMBA2, "nemotron_h": NEMOTRON, "zamba2": ZAMBA}
TEXT = torch.arange(30)[None] * 7 % 64


@torch.no_grad()
def compare(kind, least):
    """Say whether 10 tokens one by one get the logits of the whole pass. least: the limit of dt."""
    torch.manual_seed(0)
    limit = {"time_step_min": least}
    if kind == "mamba2":
        limit = {"time_step_limit": (least, float("inf"))}
    config = AutoConfig.for_model(kind, **SIZES, **KINDS[kind], **limit)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float64).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("dt_bias"):
            parameter.fill_(-12.0)  # small steps: softplus(-12) is 6e-6
    cache = DynamicCache(config=config)
    sizes = [20] + [1] * 10
    pieces = [model(piece, cache=cache, use_cache=True).logits for piece in TEXT.split(sizes, 1)]
    whole = model(TEXT).logits
    off = (torch.cat(pieces, 1) - whole).abs().max() / whole.std()
    return "same" if off < 2e-4 else "differ" if off > 2e-3 else "near"


for kind in KINDS:
    print(kind, compare(kind, 0.001), compare(kind, 1e-9), end="; ")
PY
echo "transformers $("$folder/venv/bin/python" -W ignore -c 'import transformers as t; print(t.__version__)')"
seen="$("$folder/venv/bin/python" -W ignore "$folder/steps.py" 2>/dev/null)"
echo "decoding against the whole pass, with a least step of 0.001 (the guess: same) and of 1e-9:"
echo "$seen"
[ "$seen" = "mamba2 differ same; nemotron_h differ same; zamba2 differ same; " ]
