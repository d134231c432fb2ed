"""What single architectures need beside the rules for all: layers of each kind, sizes that fit."""

from typing import Any

from tests.models.changes import both, fixed, layers, mrope, rope, ropes, windows
from tests.models.shape import Shape
from tests.models.shrink import Change, Values

# Options without which a configuration's class has no valid default.
DEFAULTS: dict[str, dict[str, Any]] = {
    "gemma4_assistant": {
        "text_config": {"hidden_size_per_layer_input": 0, "vocab_size_per_layer_input": 0}
    },
}


# transformers bounds the steps of many tokens from below, and not those of one: none is shorter.
_SHORTEST_STEP = 1e-9


def _mamba(values: Values, shape: Shape) -> None:
    """Split an inner size of twice the hidden one into 8 heads."""
    values.update(mamba_n_heads=8, mamba_d_head=2 * values["hidden_size"] // 8)


def _falcon_h1(values: Values, shape: Shape) -> None:
    values.update(mamba_d_ssm=64, mamba_n_heads=8, mamba_d_head=8)
    values.update(mlp_multipliers=[0.9, 1.1], ssm_multipliers=[0.9, 1.1, 0.8, 1.2, 0.7])


def _mamba2(values: Values, shape: Shape) -> None:
    values.update(num_heads=8, head_dim=2 * values["hidden_size"] // 8)


def _gemma4(values: Values, shape: Shape) -> None:
    """Use keys and values of earlier layers, and experts beside each layer's products."""
    kinds = ["sliding_attention", "full_attention"] * 2
    full = {"head_dim": 2 * values["head_dim"]}
    values.update(layer_types=kinds, num_hidden_layers=4, num_kv_shared_layers=2)
    values.update(per_layer_config={1: dict(full), 3: dict(full)}, enable_moe_block=True)
    values.update(num_experts=shape.experts, top_k_experts=2, moe_intermediate_size=32)


def _gemma3n(values: Values, shape: Shape) -> None:
    values.update(
        layer_types=["sliding_attention", "full_attention"] * 2,
        num_hidden_layers=4,
        num_kv_shared_layers=2,
        activation_sparsity_pattern=[0.9, 0.9, 0.0, 0.0],
        intermediate_size=[shape.inner] * 4,
    )


def _laguna(values: Values, shape: Shape) -> None:
    """Give the layer with a window more heads than the one without."""
    windows(mlp_layer_types=["dense", "sparse"])(values, shape)
    values.update(num_attention_heads_per_layer=[shape.heads, 2 * shape.heads])


def _dory(values: Values, shape: Shape) -> None:
    """Give each stack one layer, of attention and products, and the inner one two."""
    values.update(n_input_layers=2, n_recurrent_layers=4, n_output_layers=2, num_hidden_layers=8)
    values["layer_types"] = ["sliding_attention", "mlp", "full_attention", "mlp"] * 2


def _qwen4_exp(values: Values, shape: Shape) -> None:
    values.update(indexer_n_heads=2, indexer_kv_heads=1, indexer_head_dim=values["head_dim"])
    values.update(indexer_budget=32, indexer_compress_ratio=4, ple_embed_dim=values["hidden_size"])


def _inkling(values: Values, shape: Shape) -> None:
    if values.get("unpadded_vocab_size"):
        values["unpadded_vocab_size"] = shape.vocab - 5
    values["d_rel"] = 4


def _zaya(values: Values, shape: Shape) -> None:
    layers("hybrid", "hybrid_sliding", num_experts_per_tok=1)(values, shape)
    values["sliding_window"] = shape.window


def _swa_ropes(values: Values, shape: Shape) -> None:
    count = len(values["layer_types"])
    values["layer_rope_theta"] = [10000.0 * (number + 1) for number in range(count)]


def _gpt_neo(values: Values, shape: Shape) -> None:
    values.update(num_layers=2, attention_types=[[["global", "local"], 1]])
    values["attention_layers"] = ["global", "local"]


def _no_window(values: Values, shape: Shape) -> None:
    """Keep the window as long as the model's texts: only transformers' cache has it, no mask."""
    values["sliding_window"] = shape.length


def _zamba(values: Values, shape: Shape) -> None:
    """Attend to twice the hidden size: a layer's input beside the model's."""
    width = 2 * values["hidden_size"]
    values.update(attention_hidden_size=width, attention_head_dim=width // shape.heads)
    values.update(num_key_value_heads=shape.heads, n_mamba_heads=2)
    values.update(num_hidden_layers=4, layers_block_type=["linear_attention", "hybrid"] * 2)


def _zamba2(values: Values, shape: Shape) -> None:
    _zamba(values, shape)
    values.update(n_mamba_heads=8, mamba_headdim=_inner_width(values) // 8)
    values["time_step_min"] = _SHORTEST_STEP
    values["hybrid_layer_ids"] = [1, 3]
    values.update(
        mamba_ngroups=2, use_mem_rope=True, kv_channels=_inner_width(values) // shape.heads
    )


def _inner_width(values: Values) -> int:
    """Return the inner width of a recurrent layer of twice the hidden size."""
    return 2 * int(values["hidden_size"])


def _kv_like_heads(values: Values, shape: Shape) -> None:
    values["num_key_value_heads"] = values["num_attention_heads"]


def _dots3(values: Values, shape: Shape) -> None:
    """Give layers with a window heads of another size."""
    own = {
        "num_attention_heads": shape.heads, "num_key_value_heads": shape.heads,
        "q_lora_rank": 20, "kv_lora_rank": 24, "head_dim": 24, "qk_nope_head_dim": 16,
        "qk_rope_head_dim": 8, "v_head_dim": 20,
    }  # fmt: skip
    kinds = values["layer_types"]
    windows = [number for number, kind in enumerate(kinds) if kind == "sliding_attention"]
    values["per_layer_config"] = {number: dict(own) for number in windows}
    values["rope_parameters"] = None


def _dbrx(values: Values, shape: Shape) -> None:
    values["attn_config"].update(rope_theta=10000.0, clip_qkv=6.0)
    values["tie_word_embeddings"] = False


def _xlnet(values: Values, shape: Shape) -> None:
    values["d_head"] = values["d_model"] // values["n_head"]


def _ernie_vl(values: Values, shape: Shape) -> None:
    """Give rows and columns as many pairs as each other, before those of times."""
    mrope(values, shape)
    values["rope_parameters"]["mrope_section"].reverse()
    values["mlp_layer_types"] = ["dense", "sparse"]
    values["num_hidden_layers"] = 2


def _diffusion_gemma(values: Values, shape: Shape) -> None:
    values.update(num_experts=shape.experts, top_k_experts=2, moe_intermediate_size=32)


def _step3p5(values: Values, shape: Shape) -> None:
    windows(mlp_layer_types=["dense", "sparse"])(values, shape)
    values.update(num_sliding_attention_heads=2 * shape.heads)


def _ocr_experts(values: Values, shape: Shape) -> None:
    values.update(num_experts_per_tok=2, mlp_layer_types=["dense", "sparse"])
    values["num_hidden_layers"] = 2


def _dots3_note(values: Values, shape: Shape) -> None:
    for key in ("vision_config", "audio_config"):
        values[key]["adapter_out_dim"] = values["text_config"]["hidden_size"]


def _granite4_vision(values: Values, shape: Shape) -> None:
    values.update(spatial_target_layers=[0, 1], vision_feature_layer=-1)
    values["vision_config"].update(hidden_size=64)  # a head of the projector for each 64
    values.update(deepstack_layer_map=[[-1, 0]], downsample_rate="1/2")


def _apertus(values: Values, shape: Shape) -> None:
    """Put the codes of pictures and sound at the end of the vocabulary."""
    values.update(image_token_offset=shape.vocab - 8, audio_token_offset=shape.vocab - 4)
    for key in ("vision_config", "audio_config"):
        values[key]["codebook_size"] = 4


def _helium(values: Values, shape: Shape) -> None:
    values["head_dim"] = values["hidden_size"] // values["num_attention_heads"]


def _mimo(values: Values, shape: Shape) -> None:
    """Rotate half of each head, as a third of tiny ones is odd.

    Layers with windows have twice as many heads of keys and values.
    """
    values.update(head_dim=16, num_key_value_heads=1)
    for known in values["rope_parameters"].values():
        known["partial_rotary_factor"] = 0.5


def _same_width(values: Values, shape: Shape) -> None:
    values["adaptor_config"].update(hidden_size=shape.hidden, intermediate_size=shape.hidden // 4)


def _image_token(values: Values, shape: Shape) -> None:
    values.update(vocabulary_map={"<image>": shape.vocab - 3}, image_token_id=shape.vocab - 3)


def _starts(values: Values, shape: Shape) -> None:
    values.update(vision_start_token_id=shape.vocab - 1, audio_start_token_id=shape.vocab - 2)


def _projected(values: Values, shape: Shape) -> None:
    """Project pictures by small layers."""
    values.update(projector_hidden_size=32, out_hidden_size=shape.hidden)
    for key in ("vision_config", "audio_config"):
        if "out_hidden_size" in values.get(key, {}):
            values[key]["out_hidden_size"] = shape.hidden


def _nemotron_h(values: Values, shape: Shape) -> None:
    values.update(mamba_num_heads=8, mamba_head_dim=16, time_step_min=_SHORTEST_STEP)


def _jamba(values: Values, shape: Shape) -> None:
    values.pop("layers_block_type", None)
    values.update(num_hidden_layers=4, attn_layer_period=2, attn_layer_offset=1)
    values.update(expert_layer_period=2, expert_layer_offset=0)


_EXPERTS = fixed(n_routed_experts=4, num_experts_per_tok=2, n_shared_experts=1)
_PADDED = fixed(pad_token_id=1)  # positions begin after it
_QWEN_WINDOWS = windows(use_sliding_window=True)
_INDEXERS = layers(
    "indexed_attention", "indexed_attention", "indexed_attention",
    mlp_layer_types=["dense", "sparse", "sparse"], indexer_types=["full", "shared", "full"],
)  # fmt: skip

OVERRIDES: dict[str, Change] = {
    "bamba": both(_mamba, fixed(attn_layer_indices=[1], num_hidden_layers=3)),
    "bitnet": _kv_like_heads,
    "cohere_compass_text": both(
        windows(), ropes("full_attention", "sliding_attention", has_sections=True)
    ),
    "dbrx": _dbrx,
    "deepseek_v2": _EXPERTS,
    "deepseek_v3": rope("yarn", factor=8.0, mscale=1.0, mscale_all_dim=0.8),
    "dory": _dory,
    "dots1": both(windows(), _EXPERTS, fixed(n_group=1, topk_group=1)),
    "dots3_note_text": _dots3,
    "falcon_h1": _falcon_h1,
    "gemma3n_text": _gemma3n,
    "gemma4_text": _gemma4,
    "gemma4_unified_text": _gemma4,
    "glm_moe_dsa": _INDEXERS,
    "gpt_neo": _gpt_neo,
    "granite": rope("linear", factor=4.0),
    "granite_swa": _swa_ropes,
    "granitemoe_swa": _swa_ropes,
    "granitemoehybrid": both(
        layers("linear_attention", "full_attention", "linear_attention"), _mamba
    ),
    "helium": _helium,
    "inkling2_loop_text": _inkling,
    "inkling2_text": _inkling,
    "inkling_text": _inkling,
    "jamba": _jamba,
    "laguna": _laguna,
    "lfm2": layers("conv", "full_attention", "conv", full_attn_idxs=[1]),
    "lfm2_moe": layers("conv", "full_attention", "conv"),
    "llama": rope("llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0),
    "mamba2": _mamba2,
    "mellum": windows(mlp_layer_types=["sparse", "sparse"]),
    "phi3": rope("longrope"),
    "phi4_multimodal": rope("longrope"),
    "qwen2": both(_QWEN_WINDOWS, rope("yarn", factor=4.0)),
    "qwen3": _QWEN_WINDOWS,
    "qwen4_exp_text": _qwen4_exp,
    "recurrent_gemma": fixed(num_hidden_layers=3),
    "reformer": fixed(axial_pos_embds=False),
    "xlnet": _xlnet,
    "xmod": fixed(pad_token_id=1, default_language="en_XX"),
    "zamba": _zamba,
    "zamba2": _zamba2,
    "zaya": _zaya,
    # Classes that read more than text, and their texts.
    "apertus1p5": _apertus,
    "chameleon": _image_token,
    "cosmos3_edge_text": mrope,
    "deepseek_ocr2_text": _ocr_experts,
    "diffusion_gemma_text": _diffusion_gemma,
    "dots3_note": _dots3_note,
    "emu3": _image_token,
    "ernie4_5_vl_moe_text": _ernie_vl,
    "fun_asr_nano": _same_width,
    "glm4v_moe_text": mrope,
    "glm4v_text": mrope,
    "glm_ocr_text": mrope,
    "granite4_vision": _granite4_vision,
    "hunyuan_vl_text": mrope,
    "hy_v4_vl_text": mrope,
    "muse_glimmer": _projected,
    "muse_spark": _projected,
    "mimo_v2_flash": _mimo,
    "moshi": _no_window,
    "nemotron_h": _nemotron_h,
    "nemotron_h_omni": fixed(projector_hidden_size=32, vision_hidden_size=32),
    "paddleocr_vl_text": mrope,
    "qwen2_5_omni_text": mrope,
    "qwen2_5_omni_thinker": _starts,
    "qwen2_5_vl_text": mrope,
    "qwen2_vl_text": mrope,
    "qwen3_5_moe_text": mrope,
    "qwen3_5_text": mrope,
    "qwen3_omni_moe_text": mrope,
    "qwen3_omni_moe_thinker": _starts,
    "qwen3_vl_moe_text": mrope,
    "qwen3_vl_text": mrope,
    "step3p5": _step3p5,
    "camembert": _PADDED,
    "data2vec-text": _PADDED,
    "roberta": _PADDED,
    "roberta-prelayernorm": _PADDED,
    "roc_bert": _PADDED,
    "xlm-roberta": _PADDED,
    "xlm-roberta-xl": _PADDED,
}
