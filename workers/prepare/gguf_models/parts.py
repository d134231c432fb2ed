"""Names of tensors that many architectures have in common, and orders of their rows."""

from typing import Any

from headrace.workers.prepare.gguf_models.facts import ModelFacts
from headrace.workers.prepare.gguf_models.targets import Names, Order, Target

OUTER: Names = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
}
ATTENTION: Names = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
}
MLP: Names = {
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
LAYER: Names = {**ATTENTION, **MLP}


def query_pairs(facts: ModelFacts) -> Order:
    """Return the order of queries' rows where llama.cpp rotates neighbours."""
    return ["pairs", facts.same("attention.head_count")]


def key_pairs(facts: ModelFacts) -> Order:
    """Return the same of keys' rows."""
    heads = facts.same("attention.head_count")
    return ["pairs", facts.same("attention.head_count_kv", heads)]


PAIRED: Names = {
    **LAYER,
    "attn_q": Target("self_attn.q_proj", rows=query_pairs),
    "attn_k": Target("self_attn.k_proj", rows=key_pairs),
}


def expert_names(mlp: str = "mlp", router: str = "mlp.gate", **options: Any) -> Names:
    """Return names of experts and of what chooses them. mlp: of the module that has both."""
    start = f"{mlp}." if mlp else ""
    joined, down = f"{start}experts.gate_up_proj", f"{start}experts.down_proj"
    return {
        "ffn_gate_inp": router,
        "ffn_gate_exps.weight": Target(joined, part="gate", **options),
        "ffn_up_exps.weight": Target(joined, part="up", **options),
        "ffn_gate_up_exps.weight": Target(joined, part="down", **options),
        "ffn_down_exps.weight": Target(down, part="down", **options),
    }


def shared_names(module: str) -> Names:
    """Return names of experts for every token. module: their name."""
    return {
        "ffn_gate_shexp": f"{module}.gate_proj",
        "ffn_up_shexp": f"{module}.up_proj",
        "ffn_down_shexp": f"{module}.down_proj",
    }


CORRECTION: Names = {
    "exp_probs_b.bias": "mlp.gate.e_score_correction_bias",
    "exp_probs_b": "mlp.gate.e_score_correction_bias",
}
