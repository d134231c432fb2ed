#!/usr/bin/env bash
# GGUF files of Llama have their rotary scaling in llama.rope.scaling.* (linear, yarn), or, for Llama 3.1
# and later, as factors of the frequencies in a tensor rope_freqs.weight.
#
# A good guess: transformers, which opens such files, rotates with that scaling, or refuses them.
# What happens: it opens them with plain frequencies and no warning, and the loading info names nothing
# that was left over. Software that opens GGUF files through transformers must set rope_parameters itself.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    torch==2.13.0 transformers==5.24.0 gguf==0.19.0 accelerate==1.15.0 numpy==2.4.6
cd "$folder"

cat >write.py <<'PY'
import sys

import numpy as np
from gguf import GGUFWriter, RopeScalingType

WIDTH, INNER, HEADS, VOCABULARY = 32, 64, 4, 40
scaling = sys.argv[1]
writer = GGUFWriter(f"{scaling}.gguf", "llama")
writer.add_context_length(4096)
writer.add_embedding_length(WIDTH)
writer.add_block_count(1)
writer.add_feed_forward_length(INNER)
writer.add_head_count(HEADS)
writer.add_head_count_kv(HEADS)
writer.add_rope_dimension_count(WIDTH // HEADS)
writer.add_rope_freq_base(500000.0)
writer.add_layer_norm_rms_eps(1e-5)
writer.add_vocab_size(VOCABULARY)
if scaling in ("linear", "yarn"):
    writer.add_rope_scaling_type(RopeScalingType(scaling))
    writer.add_rope_scaling_factor(4.0)
    writer.add_rope_scaling_orig_ctx_len(1024)
elif scaling == "factors":
    writer.add_tensor("rope_freqs.weight", np.array([1, 2, 4, 8], np.float32))
shapes = {"token_embd": (VOCABULARY, WIDTH), "output": (VOCABULARY, WIDTH), "output_norm": (WIDTH,)}
for name in ("attn_norm", "ffn_norm"):
    shapes[f"blk.0.{name}"] = (WIDTH,)
for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
    shapes[f"blk.0.{name}"] = (WIDTH, WIDTH)
for name in ("ffn_gate", "ffn_up"):
    shapes[f"blk.0.{name}"] = (INNER, WIDTH)
shapes["blk.0.ffn_down"] = (WIDTH, INNER)
for name, shape in shapes.items():
    writer.add_tensor(f"{name}.weight", np.ones(shape, np.float32))
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()
PY
cat >read.py <<'PY'
import sys

import torch
from transformers import AutoModelForCausalLM

model, info = AutoModelForCausalLM.from_pretrained(
    ".", gguf_file=f"{sys.argv[1]}.gguf", dtype=torch.float32, output_loading_info=True
)
plain = 500000.0 ** (-torch.arange(4) / 4)
same = torch.allclose(model.model.rotary_emb.inv_freq, plain)
print(sys.argv[1], model.config.rope_parameters["rope_type"], same, not any(info.values()))
PY
venv/bin/pip list 2>/dev/null | grep -E "^(transformers|gguf) "
seen=""
for scaling in none linear yarn factors; do
    venv/bin/python write.py "$scaling"
    seen+="$(venv/bin/python read.py "$scaling" 2>>messages | tail -1); "
done
warnings="$(grep -ciE "rope|rotary|scaling" messages || true)"
echo "scaling in the file; type loaded; frequencies plain (the guess: with none alone); nothing left over:"
echo "$seen"
echo "lines on stderr about it: $warnings"
right="none default True True; linear default True True; yarn default True True; "
[ "$seen" = "${right}factors default True True; " ] && [ "$warnings" = 0 ]
