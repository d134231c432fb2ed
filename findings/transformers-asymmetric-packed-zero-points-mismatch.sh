#!/usr/bin/env bash
# compressed-tensors packs weights of 4 bits into int32, and where they are not symmetric their zero
# points too, eight of one column in a word. transformers loads such checkpoints by this library.
#
# A good guess: what compressed-tensors' own compressor has written loads, symmetric or not.
# What happens: the asymmetric checkpoint is a RuntimeError of mismatched sizes. transformers makes room
# by compressing the empty model, on the meta device; there the compressor leaves zero points as they are,
# and only with real weights it packs them. The file is sound: with dequantize=True, which makes no such
# room, the same file loads with the right weights.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    torch==2.13.0 transformers==5.24.0 compressed-tensors==0.20.1
cd "$folder"

cat >checkpoint.py <<'PY'
import sys

import torch
from compressed_tensors.compressors import ModelCompressor
from compressed_tensors.quantization import (
    QuantizationArgs,
    QuantizationConfig,
    QuantizationScheme,
    apply_quantization_config,
)
from compressed_tensors.quantization.utils import calculate_qparams
from transformers import AutoModelForCausalLM, CompressedTensorsConfig, LlamaConfig

GROUP = 32
name = sys.argv[1]
torch.manual_seed(0)
shape = LlamaConfig(
    vocab_size=64,
    hidden_size=128,
    intermediate_size=256,
    num_hidden_layers=1,
    num_attention_heads=4,
    num_key_value_heads=4,
)
model = AutoModelForCausalLM.from_config(shape, dtype=torch.float32)
right = model.model.layers[0].mlp.up_proj.weight.detach().clone()
weights = QuantizationArgs(
    num_bits=4, strategy="group", group_size=GROUP, symmetric=name == "symmetric"
)
linear = QuantizationScheme(targets=["Linear"], weights=weights)
apply_quantization_config(
    model, QuantizationConfig(config_groups={"linear": linear}, ignore=["lm_head"])
)
for module in model.modules():
    if hasattr(module, "quantization_scheme"):
        groups = module.weight.detach().unflatten(-1, (-1, GROUP))
        scale, zero_point = calculate_qparams(groups.amin(-1), groups.amax(-1), weights)
        module.weight_scale.data.copy_(scale)
        module.weight_zero_point.data.copy_(zero_point)
compressor = ModelCompressor.from_pretrained_model(model)
compressor.compress_model(model)
model.save_pretrained(name)
compressor.update_config(name)


def load(**options):
    """Say whether the weights that are loaded are the original ones but for rounding to 4 bits."""
    try:
        loaded = AutoModelForCausalLM.from_pretrained(name, dtype=torch.float32, **options)
    except RuntimeError as error:
        return type(error).__name__
    loaded(torch.arange(5)[None])  # the first pass expands what is packed
    off = (loaded.model.layers[0].mlp.up_proj.weight - right).abs().max()
    return "right" if off < 0.1 * right.abs().max() else "wrong"


print(load(), load(quantization_config=CompressedTensorsConfig(dequantize=True)))
PY
venv/bin/pip list 2>/dev/null | grep -E "^(transformers|compressed-tensors) "
symmetric="$(venv/bin/python checkpoint.py symmetric 2>/dev/null | tail -1)"
asymmetric="$(venv/bin/python checkpoint.py asymmetric 2>/dev/null | tail -1)"
echo "weights loaded as transformers does by itself, and with dequantize=True (the guess: all right)"
echo "symmetric: $symmetric"
echo "asymmetric: $asymmetric"
[ "$symmetric" = "right right" ] && [ "$asymmetric" = "RuntimeError right" ]
