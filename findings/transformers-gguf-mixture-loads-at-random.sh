#!/usr/bin/env bash
# llama.cpp writes Mixtral's and other mixtures of its kind as architecture "llama" with
# llama.expert_count and stacked experts (blk.N.ffn_gate_exps.weight). transformers reads GGUF files.
#
# A good guess: such a file loads as MixtralForCausalLM, or is an error.
# What happens: it loads as a dense LlamaForCausalLM whose feed-forward weights are drawn at random,
# with no more than a warning: two loads of one file give two different models. Software that reads
# GGUF files through transformers must compare the names of the weights itself.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    torch==2.13.0 transformers==5.24.0 gguf==0.19.0 accelerate==1.15.0
cd "$folder"

cat >write.py <<'PY'
import sys

import numpy as np
from gguf import GGUFWriter

WIDTH, INNER, HEADS, VOCABULARY, EXPERTS = 32, 64, 4, 40, 4
numbers = np.random.default_rng(0)


def random(*shape):
    return numbers.standard_normal(shape, dtype=np.float32)


writer = GGUFWriter(sys.argv[1], "llama")
writer.add_context_length(2048)
writer.add_embedding_length(WIDTH)
writer.add_block_count(1)
writer.add_feed_forward_length(INNER)
writer.add_head_count(HEADS)
writer.add_head_count_kv(HEADS)
writer.add_rope_dimension_count(WIDTH // HEADS)
writer.add_rope_freq_base(500000.0)
writer.add_layer_norm_rms_eps(1e-5)
writer.add_vocab_size(VOCABULARY)
writer.add_expert_count(EXPERTS)
writer.add_expert_used_count(2)
writer.add_tensor("token_embd.weight", random(VOCABULARY, WIDTH))
writer.add_tensor("output_norm.weight", np.ones(WIDTH, np.float32))
writer.add_tensor("output.weight", random(VOCABULARY, WIDTH))
for name in ("attn_norm", "ffn_norm"):
    writer.add_tensor(f"blk.0.{name}.weight", np.ones(WIDTH, np.float32))
for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
    writer.add_tensor(f"blk.0.{name}.weight", random(WIDTH, WIDTH))
writer.add_tensor("blk.0.ffn_gate_inp.weight", random(EXPERTS, WIDTH))
writer.add_tensor("blk.0.ffn_gate_exps.weight", random(EXPERTS, INNER, WIDTH))
writer.add_tensor("blk.0.ffn_up_exps.weight", random(EXPERTS, INNER, WIDTH))
writer.add_tensor("blk.0.ffn_down_exps.weight", random(EXPERTS, WIDTH, INNER))
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()
PY
cat >load.py <<'PY'
import torch
from transformers import AutoModelForCausalLM

one, two = (
    AutoModelForCausalLM.from_pretrained(".", gguf_file="model.gguf", dtype=torch.float32)
    for _ in range(2)
)
of_one, of_two = one.model.layers[0], two.model.layers[0]
same = torch.equal(of_one.self_attn.q_proj.weight, of_two.self_attn.q_proj.weight)
same_mlp = torch.equal(of_one.mlp.gate_proj.weight, of_two.mlp.gate_proj.weight)
print(type(one).__name__, same, same_mlp)
PY
venv/bin/python write.py model.gguf
venv/bin/pip list 2>/dev/null | grep -E "^(transformers|gguf) "
seen="$(venv/bin/python load.py 2>/dev/null | tail -1)"
echo "class; whether two loads have the same attention, and the same feed-forward weights: $seen"
[ "$seen" = "LlamaForCausalLM True False" ]
