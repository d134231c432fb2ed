"""Shrink an architecture's default configuration to a tiny one that keeps each kind of layer."""

import itertools
from collections.abc import Callable, Mapping
from typing import Any

from tests.models.shape import Shape

Values = dict[str, Any]
HIDDEN = 32  # of what reads pictures and sound
RESERVED = 12  # the last token ids of a vocabulary: of pictures and such, in no prompt

_HIDDEN = """hidden_size d_model n_embd emb_dim embedding_size word_embed_proj_dim lru_width
    attention_hidden_size dim_model embedding_dim embed_dim input_embedding_size
    output_embedding_size""".split()
_INNER = """intermediate_size ffn_dim ffn_hidden_size decoder_ffn_dim encoder_ffn_dim dff d_ff
    dim_ff intermediate_size_mlp dense_intermediate_size d_inner feed_forward_size""".split()
_EXPERT_INNER = """moe_intermediate_size shared_expert_intermediate_size shared_intermediate_size
    expert_ffn_hidden_size shared_experts_intermediate_size router_hidden_size
    moe_shared_expert_intermediate_size prefix_dense_intermediate_size expert_dim""".split()
_LAYERS = """num_hidden_layers n_layer n_layers num_layers decoder_layers encoder_layers
    num_decoder_layers num_encoder_layers num_blocks depth
    layers""".split()
_HEADS = """num_attention_heads n_head n_heads num_heads decoder_attention_heads
    encoder_attention_heads attention_heads num_encoder_attention_heads
    num_decoder_attention_heads swa_num_attention_heads linear_num_heads""".split()
_KV_HEADS = """num_key_value_heads kv_n_heads num_kv_heads swa_num_key_value_heads
    num_query_groups""".split()
_HEAD_DIMS = """head_dim d_head dim_head kv_channels swa_head_dim swa_v_head_dim d_kv
    attention_head_size""".split()
_VOCAB = "vocab_size vocab_size_per_layer_input decoder_vocab_size output_vocab_size".split()
_LENGTHS = """max_position_embeddings n_positions n_ctx max_seq_len model_max_length
    max_target_positions context_length seq_length""".split()
_WINDOWS = """sliding_window sliding_window_size attention_window_size local_attention
    attention_chunk_size window_size local_attention_window_len swa_window""".split()
_EXPERTS = "num_experts num_local_experts n_routed_experts moe_num_experts".split()
_TOP_EXPERTS = """num_experts_per_tok num_experts_per_token moe_topk moe_top_k moe_k
    top_k_experts""".split()
# Sizes that matter to one mechanism, where the default is a larger number.
_SMALL: Values = {
    "n_group": 2, "topk_group": 1, "num_expert_group": 2, "zero_expert_num": 2,
    "first_k_dense_replace": 1, "num_dense_layers": 1, "n_shared_experts": 1,
    "q_lora_rank": 24, "kv_lora_rank": 16, "qk_nope_head_dim": 12, "qk_rope_head_dim": 8,
    "qk_head_dim": 20, "v_head_dim": 12, "o_lora_rank": 16, "o_groups": 2,
    "laurel_rank": 8, "gated_norm_rank": 8, "adapter_rank": 8, "hc_lowrank": 8,
    "loop_gate_rank": 8, "hidden_size_per_layer_input": 16, "query_pre_attn_scalar": 24,
    "attn_logit_softcapping": 5.0, "final_logit_softcapping": 20.0,
    "mamba_d_state": 8, "mamba_n_groups": 2, "mamba_chunk_size": 16, "state_size": 8,
    "ssm_state_size": 8, "n_groups": 2, "chunk_size": 16, "time_step_rank": 8,
    "mamba_dt_rank": 8, "linear_num_key_heads": 2, "linear_num_value_heads": 4,
    "linear_key_head_dim": 8, "linear_value_head_dim": 8, "linear_head_dim": 8,
    "index_head_dim": 16, "index_n_heads": 16, "index_topk": 32, "index_block_size": 8,
    "index_topk_blocks": 2, "original_max_position_embeddings": 64, "floor_scale": 32,
    "log_scaling_n_floor": 32, "rel_extent": 48, "keep_window_size": 24, "max_window_layers": 1,
    "num_nextn_predict_layers": 0, "num_mtp_layers": 0, "rotary_dim": 8, "d_rel": 4,
    "ngram_vocab_size_base": 64, "split_ngram_parts": 1, "ple_embed_dim": 16,
    "n_layers_per_attn_res_block": 2, "block_multiple_of": 8,
    "encoder_hash_byte_group_vocab": 64, "pronunciation_embed_dim": 16, "shape_embed_dim": 16,
    "pronunciation_vocab_size": 32, "shape_vocab_size": 32,
    "make_ngram_vocab_size_divisible_by": 8,
}  # fmt: skip
# Factors that the default leaves at 1, where a product that is missing would not show.
_FACTORS: Values = {
    "attention_multiplier": 0.3, "residual_multiplier": 0.7, "embedding_multiplier": 2.0,
    "logits_scaling": 1.5, "key_multiplier": 0.8, "lm_head_multiplier": 0.7,
    "attention_in_multiplier": 0.9, "attention_out_multiplier": 1.2, "ssm_in_multiplier": 1.1,
    "ssm_out_multiplier": 0.9, "attn_scale": 0.5, "logit_scale": 0.5,
}  # fmt: skip
_PLAIN: Values = {
    "is_decoder": True, "add_cross_attention": False, "architectures": None, "dtype": None,
    "forced_eos_token_id": None, "begin_suppress_tokens": None, "suppress_tokens": None,
    "use_cache": True, "use_mamba_kernels": False, "initializer_range": 0.02,
}  # fmt: skip
_ROPE_KEYS = ("rope_parameters", "rope_scaling")


def shrink_text(default: Mapping[str, Any], shape: Shape) -> Values:
    """Return a text configuration's values at a shape's sizes."""
    values = {key: _shrunk(key, value, shape) for key, value in default.items()}
    values |= {key: value for key, value in _PLAIN.items() if key in default}
    _fit_heads(values, default, shape)
    keep_layers(values, default, shape.layers)
    for key in _ROPE_KEYS:
        if isinstance(values.get(key), dict):
            values[key] = _rope(default[key], values, shape)
    if "tie_word_embeddings" in default:
        values["tie_word_embeddings"] = shape.ties
    return values


def _shrunk(key: str, value: Any, shape: Shape) -> Any:
    if key.endswith(("token_id", "token_ids", "token_index", "token_indices")):
        return _token(key, value, shape)
    by_size: list[tuple[list[str], int]] = [
        (_HIDDEN, shape.hidden), (_INNER, shape.inner), (_EXPERT_INNER, 32),
        (_LAYERS, shape.layers), (_HEADS, shape.heads), (_KV_HEADS, shape.kv_heads),
        (_HEAD_DIMS, shape.head_dim), (_VOCAB, shape.vocab), (_LENGTHS, shape.length),
        (_WINDOWS, shape.window), (_EXPERTS, shape.experts), (_TOP_EXPERTS, shape.top_experts),
    ]  # fmt: skip
    if value is None and key in ("head_dim", "num_key_value_heads"):
        return shape.head_dim if key == "head_dim" else shape.kv_heads
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, list) and key in _INNER + _EXPERT_INNER:
        return [_shrunk(key, each, shape) for each in value]
    if not isinstance(value, int | float):
        return value
    for keys, size in by_size:
        if key in keys:
            return size if value else value
    if key in _FACTORS and value == 1.0:
        return _FACTORS[key]
    if key in _SMALL and value > _SMALL[key]:
        return _SMALL[key]
    return _FACTORS.get(key, value) if key in ("attn_scale",) else value


def _token(key: str, value: Any, shape: Shape) -> Any:
    """Return marks among the reserved ids, so that no text holds or ends with one."""
    first = shape.vocab - RESERVED
    if isinstance(value, list):
        return [first + number % RESERVED for number in range(len(value))]
    return first + sum(map(ord, key)) % RESERVED if isinstance(value, int) else value


def keep_layers(values: Values, default: Mapping[str, Any], layers: int) -> None:
    """Keep one layer of each kind, and further ones up to `layers`, in their order.

    A kind is what all lists with a value for each layer, and `per_layer_config`, say of it. Lists
    of layers' own numbers are numbered anew.
    """
    count_key = next((key for key in _LAYERS if key in default), "layer_types")
    kinds_of_layers = default.get("layer_types")
    count = int(len(kinds_of_layers) if kinds_of_layers else default.get(count_key) or 0)
    lists = {
        key: value
        for key, value in default.items()
        if isinstance(value, list) and len(value) == count and count > 1
    }
    if not lists:
        return
    own = {int(key): value for key, value in (default.get("per_layer_config") or {}).items()}
    numbered = [key for key, value in lists.items() if value == list(range(count))]
    kinds: dict[str, int] = {}
    for number in range(count):
        told = [value[number] for key, value in lists.items() if key not in numbered]
        kinds.setdefault(str([told, own.get(number)]), number)
    further = (number for number in range(count) if number not in kinds.values())
    wanted = max(layers, len(kinds)) - len(kinds)
    chosen = sorted([*kinds.values(), *itertools.islice(further, wanted)])
    for key, value in lists.items():
        shrunk = values[key] if isinstance(values[key], list) else value
        values[key] = [shrunk[number] for number in chosen]
        if key in numbered:
            values[key] = list(range(len(chosen)))
    if count_key != "layer_types":
        values[count_key] = len(chosen)
    if own:
        values["per_layer_config"] = {
            place: _scaled(own[number], default, values)
            for place, number in enumerate(chosen)
            if number in own
        }


def _scaled(own: Values, default: Mapping[str, Any], values: Values) -> Values:
    """Return what a layer has of its own, as many times the rest's as by default."""
    return {
        key: max(1, value * values[key] // default[key])
        if isinstance(value, int) and not isinstance(value, bool) and default.get(key)
        else value
        for key, value in own.items()
    }


def _fit_heads(values: Values, default: Mapping[str, Any], shape: Shape) -> None:
    """Make the numbers of heads and their sizes fit each other."""
    if default.get("kv_lora_rank"):
        for key in set(_KV_HEADS) & set(default):
            values[key] = shape.heads
        if "head_dim" in default and "qk_rope_head_dim" in default:
            values["head_dim"] = values["qk_rope_head_dim"]
        return
    factor = _rotary_share(default)
    has_own = any(key in default for key in _HEAD_DIMS)
    dim = shape.head_dim if has_own else shape.hidden // shape.heads
    while int(dim * factor) % 2 or int(dim * factor) == 0 or dim % 2:
        dim += 2 if dim % 2 == 0 else 1
    for key in _HEAD_DIMS:
        if key in default:
            values[key] = dim
    if not has_own and dim * shape.heads != shape.hidden:
        for key in _HIDDEN:
            if key in default and isinstance(default[key], int):
                values[key] = dim * shape.heads


def _rotary_share(default: Mapping[str, Any]) -> float:
    shares: list[float] = []

    def find(values: Mapping[str, Any]) -> None:
        for key, value in values.items():
            if key in ("partial_rotary_factor", "rotary_pct") and isinstance(value, float):
                shares.append(value)
            elif isinstance(value, dict) and key in (*_ROPE_KEYS, *_LAYER_KINDS):
                find(value)

    find(default)
    return min(shares, default=1.0)


_LAYER_KINDS = ("full_attention", "sliding_attention", "main", "compress", "chunked_attention")


def _rope(default: Values, values: Values, shape: Shape) -> Values:
    """Return rope's options: with the sections of pictures fitted to the head, if there are any."""
    rope = {
        key: _rope(value, values, shape) if isinstance(value, dict) else value
        for key, value in default.items()
    }
    if "original_max_position_embeddings" in rope:
        rope["original_max_position_embeddings"] = 64
    for key in ("short_factor", "long_factor"):
        if key in rope:
            rope.pop(key)
    if rope.get("mrope_section"):
        dim = values.get("head_dim") or values["hidden_size"] // values["num_attention_heads"]
        rope["mrope_section"] = sections(int(dim * rope.get("partial_rotary_factor", 1.0)) // 2)
    return rope


def sections(pairs: int) -> list[int]:
    """Return three sections of rotary pairs, for times, rows and columns."""
    side = pairs // 3
    return [pairs - 2 * side, side, side]


Change = Callable[[Values, Shape], None]
