"""Weights that a model has no place for are judged, and what transformers warns of is told."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from headrace.workers.errors import ModelUnsupported
from headrace.workers.torch_runner.loading import load_model
from tests.workers.tiny_models import save_model, save_tiny


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("llama")
    save_tiny(folder, "llama")
    return folder


@pytest.fixture
def llama(saved: Path, tmp_path: Path) -> Path:
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((saved / name).read_bytes())
    return tmp_path


def add(folder: Path, **tensors: torch.Tensor) -> None:
    file = folder / "model.safetensors"
    named = {name.replace("__", "."): each for name, each in tensors.items()}
    save_file(load_file(file) | named, file, {"format": "pt"})


def change_config(folder: Path, **changes: Any) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def lines_of(folder: Path) -> list[str]:
    lines: list[str] = []
    load_model(folder, "float32", torch.device("cpu"), False, lines.append)
    return lines


def refusal(folder: Path) -> str:
    with pytest.raises(ModelUnsupported) as caught:
        lines_of(folder)
    assert "\n" not in caught.value.reason
    return caught.value.reason


@pytest.mark.parametrize(
    "name",
    [
        "model__layers__0__self_attn__q_proj__bias",
        "model__layers__1__post_norm__weight",
        "model__layers__2__input_layernorm__weight",  # of more layers than the configuration says
        "layers__0__mlp__up_proj__bias",
        "model__norm__bias",
        "model__embed_norm__weight",
        "lm_head__bias",
    ],
)
def test_a_weight_of_the_models_own_layers_is_refused(llama: Path, name: str) -> None:
    add(llama, **{name: torch.ones(32)})
    assert f"that its architecture has not: {name.replace('__', '.')}" in refusal(llama)


@pytest.mark.parametrize(
    "name",
    [
        "model__layers__0__self_attn__rotary_emb__inv_freq",
        "model__vision_tower__layers__0__norm__weight",
        "multi_modal_projector__linear__weight",
        "mtp__layers__0__norm__weight",
        "model__mtp_layers__0__norm__weight",
        "score__weight",
        "model__layers__0__self_attn__k_scale",
    ],
)
def test_what_changes_no_text_is_told(llama: Path, name: str) -> None:
    add(llama, **{name: torch.ones(32)})
    plain = name.replace("__", ".")
    told = f"1 weights have no use in text and are not read, e.g. {plain}"
    assert lines_of(llama) in ([told], [])  # transformers leaves some out by itself
    assert lines_of(llama) == [told] or "rotary" in name


def test_layers_for_drafts_are_told(llama: Path) -> None:
    change_config(llama, num_nextn_predict_layers=1)
    add(llama, model__layers__2__input_layernorm__weight=torch.ones(32))
    assert "have no use in text" in lines_of(llama)[0]
    add(llama, model__layers__3__input_layernorm__weight=torch.ones(32))
    assert "model.layers.3.input_layernorm.weight" in refusal(llama)


def test_biases_of_zeros_are_told(llama: Path) -> None:
    add(llama, model__layers__0__mlp__up_proj__bias=torch.zeros(64))
    assert "have no use in text" in lines_of(llama)[0]


@pytest.mark.parametrize(
    "end",
    [
        "weight_scale",
        "weight_scale_inv",
        "qweight",
        "g_idx",
        "weight_zero_point",
        "absmax",
        "scales",
    ],
)
def test_what_is_left_of_a_quantization_is_refused(llama: Path, end: str) -> None:
    name = f"model__layers__0__mlp__up_proj__{end}"
    add(llama, **{name: torch.ones(1)})
    assert "quantized in a way that nothing tells" in refusal(llama)


@pytest.mark.parametrize(
    ("dtype", "what"),
    [
        (torch.float8_e4m3fn, "8-bit floats"),
        (torch.int8, "the type I8"),
        (torch.uint8, "the type U8"),
    ],
)
def test_weights_in_8_bits_that_nothing_explains_are_refused(
    llama: Path, dtype: torch.dtype, what: str
) -> None:
    add(llama, model__layers__0__mlp__up_proj__weight=torch.ones(64, 32).to(dtype))
    reason = refusal(llama)
    assert f"weights in {what}, among them model.layers.0.mlp.up_proj.weight" in reason
    assert "no quantization_config" in reason


def test_masks_in_8_bits_are_no_weights(llama: Path) -> None:
    add(llama, model__layers__0__attn__bias=torch.ones(1, 1, 4, 4, dtype=torch.uint8))
    assert "have no use in text" in lines_of(llama)[0]


def test_weights_of_another_shape_are_one_line(llama: Path) -> None:
    add(llama, model__layers__0__mlp__up_proj__weight=torch.ones(63, 32))
    reason = refusal(llama)
    assert "model.layers.0.mlp.up_proj.weight" in reason
    assert "63" in reason


def test_what_transformers_warns_of_is_told(llama: Path) -> None:
    rope = {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4, "no_such_key": 1}
    change_config(llama, rope_parameters=rope)
    (line,) = lines_of(llama)
    assert line.startswith("transformers warns: Unrecognized keys in `rope_parameters`")
    assert "no_such_key" in line


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"rope_parameters": {"rope_type": "no such", "rope_theta": 1e4}}, "KeyError: 'no such'"),
        ({"hidden_act": "no such"}, "no such"),
        ({"num_attention_heads": "four"}, "num_attention_heads"),
    ],
)
def test_what_transformers_raises_is_one_line(
    llama: Path, changes: dict[str, Any], reason: str
) -> None:
    change_config(llama, **changes)
    assert reason in refusal(llama)


def test_kimi_k2_is_a_deepseek_v3(tmp_path: Path) -> None:
    options = {
        "n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1,
        "moe_intermediate_size": 32, "kv_lora_rank": 16, "q_lora_rank": 24, "qk_rope_head_dim": 8,
        "qk_nope_head_dim": 8, "v_head_dim": 8, "first_k_dense_replace": 1,
        "num_key_value_heads": 4,
    }  # fmt: skip
    save_model(tmp_path, "DeepseekV3Config", "DeepseekV3ForCausalLM", options)
    code = {"AutoModelForCausalLM": "modeling_deepseek.DeepseekV3ForCausalLM"}
    change_config(tmp_path, model_type="kimi_k2", auto_map=code)
    assert lines_of(tmp_path)[0] == "auto_map is ignored: transformers has DeepseekV3ForCausalLM"
