"""LFM2's architectures: short convolutions, and layers that attend."""

from headrace.workers.prepare.gguf_header import GGUFError
from headrace.workers.prepare.gguf_models.facts import ModelFacts
from headrace.workers.prepare.gguf_models.parts import expert_names
from headrace.workers.prepare.gguf_models.rope import RopeFactors
from headrace.workers.prepare.gguf_models.targets import Architecture, Names
from headrace.workers.prepare.gguf_models.values import (
    Values,
    base,
    dense_layers,
    experts,
    is_sigmoid,
)

_ATTENDS = "attn_q.weight"


def _lfm2(facts: ModelFacts, factors: RopeFactors) -> Values:
    attends = facts.layers_with(_ATTENDS)
    values = {
        **base(facts, factors),
        "norm_eps": facts.need("attention.layer_norm_rms_epsilon"),
        "conv_L_cache": facts.need("shortconv.l_cache"),
        "layer_types": ["full_attention" if each else "conv" for each in attends],
        "conv_bias": facts.has("shortconv.in_proj.bias"),
        "block_auto_adjust_ff_dim": False,
    }
    if facts.get("attention.sliding_window"):
        raise GGUFError("has lfm2's sliding window, which is not served")
    if facts.architecture != "lfm2moe":
        return values
    if not is_sigmoid(facts, default=True):
        raise GGUFError("chooses experts by softmax, which its architecture does not")
    more = {"num_dense_layers": dense_layers(facts), "use_expert_bias": True}
    return {**values, **experts(facts, "num_experts"), **more, "norm_topk_prob": True}


_LFM2: Names = {
    "attn_norm": "operator_norm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.out_proj",
    "attn_q_norm": "self_attn.q_layernorm",
    "attn_k_norm": "self_attn.k_layernorm",
    "shortconv.conv": "conv.conv",
    "shortconv.in_proj": "conv.in_proj",
    "shortconv.out_proj": "conv.out_proj",
    "ffn_norm": "ffn_norm",
    "ffn_gate": "feed_forward.w1",
    "ffn_up": "feed_forward.w3",
    "ffn_down": "feed_forward.w2",
}
_LFM2_OUTER: Names = {
    "token_embd": "model.embed_tokens",
    "token_embd_norm": "model.embedding_norm",
    "output_norm": "model.embedding_norm",
    "output": "lm_head",
}
_LFM2_MOE: Names = {
    **_LFM2,
    **expert_names("feed_forward", "feed_forward.gate"),
    "exp_probs_b.bias": "feed_forward.expert_bias",
}
CONVOLUTIONS = {
    "lfm2": Architecture("lfm2", _lfm2, _LFM2, _LFM2_OUTER),
    "lfm2moe": Architecture("lfm2_moe", _lfm2, _LFM2_MOE, _LFM2_OUTER),
}
