#!/usr/bin/env bash
# transformers reads GGUF files of gpt-oss. As llama.cpp writes these files, they hold YaRN's parameters
# under gpt-oss.rope.scaling.* and the window under gpt-oss.attention.sliding_window; all published
# gpt-oss models have YaRN.
#
# A good guess: of an architecture that is on transformers' list, such a file opens with its parameters.
# What happens: with rope scaling in the file even the config is a TypeError, since the length of each
# key is read in place of its value. Without rope scaling the file opens, but with YaRN's factor of 32
# from the class's defaults; and the window of the file is ignored, as the table of keys expects
# gpt-oss.sliding_window: the default of 128 counts. Software that opens such files through
# transformers must read these keys itself.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    torch==2.13.0 transformers==5.24.0 gguf==0.19.0 numpy==2.4.6
cd "$folder"

cat >write.py <<'PY'
import numpy as np
from gguf import GGUFWriter, RopeScalingType

WIDTH, INNER, HEADS, HEAD, VOCABULARY, EXPERTS = 32, 64, 2, 64, 40, 4


def write(path, with_scaling):
    writer = GGUFWriter(path, "gpt-oss")
    writer.add_block_count(1)
    writer.add_context_length(131072)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    if with_scaling:
        writer.add_rope_scaling_type(RopeScalingType.YARN)
        writer.add_rope_scaling_factor(32.0)
        writer.add_rope_scaling_orig_ctx_len(4096)
        writer.add_rope_scaling_yarn_beta_fast(32.0)
        writer.add_rope_scaling_yarn_beta_slow(1.0)
    writer.add_rope_freq_base(150000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_expert_count(EXPERTS)
    writer.add_expert_used_count(2)
    writer.add_key_length(HEAD)
    writer.add_value_length(HEAD)
    writer.add_sliding_window(64)
    writer.add_expert_feed_forward_length(INNER)
    writer.add_vocab_size(VOCABULARY)
    attention = HEADS * HEAD
    shapes = {
        "attn_norm.weight": (WIDTH,),
        "post_attention_norm.weight": (WIDTH,),
        "attn_output.weight": (WIDTH, attention),
        "attn_output.bias": (WIDTH,),
        "attn_sinks.weight": (HEADS,),
        "ffn_gate_inp.weight": (EXPERTS, WIDTH),
        "ffn_gate_inp.bias": (EXPERTS,),
        "ffn_down_exps.weight": (EXPERTS, WIDTH, INNER),
        "ffn_down_exps.bias": (EXPERTS, WIDTH),
    }
    for name in ("attn_q", "attn_k", "attn_v"):
        shapes |= {f"{name}.weight": (attention, WIDTH), f"{name}.bias": (attention,)}
    for name in ("ffn_gate_exps", "ffn_up_exps"):
        shapes |= {f"{name}.weight": (EXPERTS, INNER, WIDTH), f"{name}.bias": (EXPERTS, INNER)}
    writer.add_tensor("token_embd.weight", np.ones((VOCABULARY, WIDTH), np.float32))
    for name, shape in shapes.items():
        writer.add_tensor(f"blk.0.{name}", np.ones(shape, np.float32))
    writer.add_tensor("output_norm.weight", np.ones(WIDTH, np.float32))
    writer.add_tensor("output.weight", np.ones((VOCABULARY, WIDTH), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


write("scaled.gguf", True)
write("plain.gguf", False)
PY
cat >read.py <<'PY'
import sys

from gguf import GGUFReader
from transformers import AutoConfig

KEYS = ("gpt-oss.rope.scaling.factor", "gpt-oss.attention.sliding_window")
fields = GGUFReader(sys.argv[1]).fields
inside = [fields[key].contents() if key in fields else None for key in KEYS]
try:
    config = AutoConfig.from_pretrained(".", gguf_file=sys.argv[1])
    opened = [config.rope_parameters.get("factor"), config.sliding_window]
except Exception as error:
    opened = type(error).__name__
print(inside, opened)
PY
venv/bin/python write.py
venv/bin/pip list 2>/dev/null | grep -E "^(transformers|gguf|numpy) "
scaled="$(venv/bin/python read.py scaled.gguf 2>/dev/null | tail -1)"
plain="$(venv/bin/python read.py plain.gguf 2>/dev/null | tail -1)"
echo "YaRN's factor and the window in the file, then in the config (the guess: the same)"
echo "with rope scaling: $scaled"
echo "without: $plain"
[ "$scaled" = "[32.0, 64] TypeError" ] && [ "$plain" = "[None, 64] [32.0, 128]" ]
