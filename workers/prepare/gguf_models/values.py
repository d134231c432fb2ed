"""Values of configurations that many architectures have in common."""

from typing import Any

from headrace.workers.prepare.gguf_header import GGUFError
from headrace.workers.prepare.gguf_models.facts import ModelFacts
from headrace.workers.prepare.gguf_models.rope import RopeFactors, rope_parameters

Values = dict[str, Any]
_SOFTMAX, _SIGMOID = 1, 2  # llama.cpp's numbers of expert_gating_func
FULL, SLIDING = "full_attention", "sliding_attention"
_RMS, _LAYER = "attention.layer_norm_rms_epsilon", "attention.layer_norm_epsilon"


def head_size(facts: ModelFacts) -> int:
    """Return the numbers of a head. Raises GGUFError if values have others than keys."""
    heads = facts.same("attention.head_count")
    size = facts.get("attention.key_length") or facts.need("embedding_length") // heads
    if facts.get("attention.value_length", size) != size:
        raise GGUFError(f"has keys of {size} numbers and values of others")
    return int(size)


def base(facts: ModelFacts, factors: RopeFactors) -> Values:
    """Return what a decoder with rotary embedding has."""
    size = head_size(facts)
    return {
        **plain(facts),
        "head_dim": size,
        "rope_parameters": rope_parameters(facts, factors, size),
    }


def plain(facts: ModelFacts, _: Any = None) -> Values:
    """Return what a decoder has, without its rotary embedding.

    Biases are there where the file has them.
    """
    refuse_other_kinds(facts)
    sizes = ("attention.key_length", "attention.value_length")
    for key in ("rope.dimension_count", "rope.freq_base", *sizes):
        facts.get(key)  # which files of models without have, too; shapes tell of other sizes
    heads = facts.same("attention.head_count")
    values = {
        "vocab_size": facts.rows("token_embd.weight"),
        "hidden_size": facts.need("embedding_length"),
        "intermediate_size": facts.same("feed_forward_length"),
        "num_hidden_layers": facts.layers,
        "num_attention_heads": heads,
        "num_key_value_heads": facts.same("attention.head_count_kv", heads),
        "max_position_embeddings": facts.need("context_length"),
        "rms_norm_eps": facts.get(_RMS),
        "tie_word_embeddings": not facts.has("output.weight"),
        "attention_bias": facts.has("attn_q.bias"),
        "mlp_bias": facts.has("ffn_up.bias"),
    }
    return {**_given(values), **token_ids(facts)}


def _given(values: Values) -> Values:
    return {name: value for name, value in values.items() if value is not None}


def token_ids(facts: ModelFacts) -> Values:
    """Return the numbers of special tokens."""
    names = {"bos": "bos", "eos": "eos", "pad": "padding"}
    return {
        f"{name}_token_id": facts.metadata.get(f"tokenizer.ggml.{key}_token_id")
        for name, key in names.items()
    }


def refuse_other_kinds(facts: ModelFacts) -> None:
    """Raise GGUFError for a model that is no decoder, or needs what transformers does not do."""
    if facts.get("attention.causal", True) is False:
        raise GGUFError("attends to later tokens, too, which is not served")
    facts.get("pooling_type")
    for key in ("attention.clamp_kqv", "attention.max_alibi_bias", "swin_norm"):
        if facts.get(key):
            raise GGUFError(f"says {facts.architecture}.{key}, which is not served")


def layer_eps(facts: ModelFacts) -> float:
    """Return what is added to a variance by LayerNorm."""
    return float(facts.need(_LAYER))


def sliding_layers(facts: ModelFacts, period: int, dense_first: bool = False) -> list[str]:
    """Return the kind of each layer. period: of layers, the last (or first) of which is full."""
    pattern = facts.get("attention.sliding_window_pattern", period)
    if not isinstance(pattern, tuple):
        full = 0 if dense_first else pattern - 1
        pattern = tuple(pattern == 0 or n % pattern != full for n in range(facts.layers))
    return [SLIDING if each else FULL for each in pattern[: facts.layers]]


def window(facts: ModelFacts, period: int) -> Values:
    """Return the sliding window and the layers that have it; neither if there is none."""
    size = facts.get("attention.sliding_window", 0)
    kinds = sliding_layers(facts, period)
    if not size:
        return {"sliding_window": None, "layer_types": [FULL] * facts.layers}
    return {"sliding_window": size, "layer_types": kinds}


def experts(facts: ModelFacts, count: str, hidden: str = "moe_intermediate_size") -> Values:
    """Return the numbers of experts. count: transformers' name; hidden: of their width."""
    width = facts.same("expert_feed_forward_length") or facts.rows("ffn_down_exps.weight")
    if "ffn_down_exps.weight" and facts.has("ffn_down_exps.weight"):
        width = facts.tensor("ffn_down_exps.weight").shape[2]
    return {
        count: facts.need("expert_count"),
        "num_experts_per_tok": facts.same("expert_used_count"),
        hidden: width,
    }


def is_sigmoid(facts: ModelFacts, default: bool) -> bool:
    """Return whether experts are chosen by sigmoids. Raises GGUFError if by something else."""
    kind = facts.get("expert_gating_func", 0)
    if kind not in (0, _SOFTMAX, _SIGMOID):
        raise GGUFError(f"chooses experts by function {kind}, which is not known")
    return default if kind == 0 else bool(kind == _SIGMOID)


def routed_experts(facts: ModelFacts) -> Values:
    """Return what models have whose experts come in groups, beside shared ones."""
    found = experts(facts, "n_routed_experts")
    width = found["moe_intermediate_size"]
    shared = facts.tensor("ffn_down_shexp.weight").shape[1] if has_shared(facts) else 0
    if shared % width:
        raise GGUFError(f"has shared experts of {shared} numbers beside others of {width}")
    return {
        **found,
        "n_shared_experts": shared // width,
        **grouping(facts),
        "first_k_dense_replace": dense_layers(facts),
    }


def grouping(facts: ModelFacts) -> Values:
    """Return how experts are chosen by groups, and how their results are weighted."""
    return {
        "n_group": facts.get("expert_group_count", 1) or 1,
        "topk_group": facts.get("expert_group_used_count", 1) or 1,
        "norm_topk_prob": bool(facts.get("expert_weights_norm", False)),
        "routed_scaling_factor": facts.get("expert_weights_scale", 1.0) or 1.0,
    }


def has_shared(facts: ModelFacts) -> bool:
    """Return whether there are experts for every token."""
    return facts.has("ffn_down_shexp.weight")


def dense_layers(facts: ModelFacts) -> int:
    """Return how many layers have no experts. Raises GGUFError if they are not the first ones."""
    with_experts = facts.layers_with("ffn_gate_inp.weight")
    count = int(facts.get("leading_dense_block_count", 0))
    if with_experts != [layer >= count for layer in range(facts.layers)]:
        count = with_experts.index(True) if any(with_experts) else len(with_experts)
    if with_experts != [layer >= count for layer in range(facts.layers)]:
        raise GGUFError("has layers with and without experts in turn")
    return count


def refuse(facts: ModelFacts, allowed: dict[str, tuple[Any, ...]]) -> None:
    """Raise GGUFError if a value is another than those that the architecture computes with."""
    for key, values in allowed.items():
        value = facts.get(key)
        if value is not None and value not in values:
            raise GGUFError(f"says {facts.architecture}.{key} {value}, which is not served")
