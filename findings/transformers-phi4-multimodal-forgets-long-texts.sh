#!/usr/bin/env bash
# Phi-3 and Phi-4-multimodal have other rotary frequencies once a text outgrows
# original_max_position_embeddings, so that generate() must then compute the text again without its cache.
#
# A good guess: at that length both read the whole text once more, and go on with the new cache.
# What happens: Phi3 does. Phi4Multimodal drops the cache but passes the newest token alone, and does so
# again for each token after, as the new cache is short: from there on, each token is computed from
# the one before it, without an error. generate(use_cache=False) reads the text.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 transformers==5.24.0

cat >"$folder/long.py" <<'PY'
import torch
from transformers import AutoConfig, AutoModelForCausalLM

SIZES = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
SIZES |= {"num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.3}
SIZES |= {"max_position_embeddings": 256, "original_max_position_embeddings": 64}
SIZES |= {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
SMALL = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2}
PICTURES = {"num_hidden_layers": 2, "image_size": 28, "patch_size": 14, "crop_size": 28}
SOUND = {"num_blocks": 1, "ext_pw_out_channel": 16, "nemo_conv_channels": 16}
PARTS = {
    "vision_config": SMALL | PICTURES | {"image_token_id": 60},
    "audio_config": SMALL | SOUND | {"audio_token_id": 61},
}
PROMPT = torch.arange(54)[None] * 7 % 57 + 3


def write(kind, parts):
    """The tokens that each pass reads or has in its cache, from 64 on, and if generate is right."""
    torch.manual_seed(0)
    rope = {"rope_type": "longrope", "rope_theta": 10000.0}
    rope |= {"short_factor": [1.0] * 4, "long_factor": [2.0] * 4}
    config = AutoConfig.for_model(kind, **SIZES, **parts, rope_parameters=rope)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    seen = []

    def note(module, given, options):
        cache = options.get("cache")
        seen.append(options["input_ids"].shape[1] + (cache.get_seq_length() if cache else 0))

    hook = model.model.register_forward_pre_hook(note, with_kwargs=True)
    options = {"max_new_tokens": 14, "min_new_tokens": 14, "do_sample": False}
    text = model.generate(PROMPT, **options)
    hook.remove()
    plain = model.generate(PROMPT, use_cache=False, **options)
    return f"{kind} {seen[10:]} {torch.equal(text, plain)}"


print(write("phi3", {}), write("phi4_multimodal", PARTS), sep="; ")
PY
echo "transformers $("$folder/venv/bin/python" -W ignore -c 'import transformers as t; print(t.__version__)')"
seen="$("$folder/venv/bin/python" -W ignore "$folder/long.py" 2>/dev/null)"
echo "tokens seen by each pass from 64 on; text the same without a cache (the guess: alike):"
echo "$seen"
[ "$seen" = "phi3 [64, 65, 66, 67] True; phi4_multimodal [64, 1, 1, 1] False" ]
