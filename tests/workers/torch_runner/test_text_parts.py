"""Of models that read pictures or sounds, too, the text is served, with the whole's own logits."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from headrace.protocol.config import EngineConfig
from headrace.workers.build import build_engine
from headrace.workers.errors import ModelUnsupported
from headrace.workers.torch_runner.loading import load_model
from tests.workers.driving import request, run

_TEXT: dict[str, Any] = {
    "vocab_size": 160, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
    "max_position_embeddings": 128, "tie_word_embeddings": False,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
_ROPE = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]}
_EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 32, "n_shared_experts": 1}
_PIXELS = {"hidden_size": 32, "image_size": 28, "patch_size": 14, "num_hidden_layers": 1,
           "num_attention_heads": 2, "intermediate_size": 32}  # fmt: skip
_BLOCKS = {"depth": 1, "hidden_size": 32, "num_heads": 2, "intermediate_size": 32,
           "out_hidden_size": 64, "embed_dim": 32, "deepstack_visual_indexes": [0],
           "fullatt_block_indexes": [0]}  # fmt: skip
_PIXTRAL = {**_PIXELS, "model_type": "pixtral", "head_dim": 16}
_CLIP = {**_PIXELS, "model_type": "clip_vision_model", "projection_dim": 32}
# The class, changes to the text's configuration, and the other part's.
WHOLES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "Mistral3": ("Mistral3", {"model_type": "mistral"}, _PIXTRAL),
    "Llava": ("Llava", {"model_type": "llama"}, _CLIP),
    "InternVL": ("InternVL", {"model_type": "qwen2"}, {**_PIXELS, "image_size": [28, 28]}),
    "SmolVLM": ("SmolVLM", {"model_type": "llama"}, _PIXELS),
    "Qwen2_5_VL": ("Qwen2_5_VL", {"rope_parameters": _ROPE}, _BLOCKS),
    "Qwen3VL": ("Qwen3VL", {"rope_parameters": _ROPE}, _BLOCKS),
    "Qwen3VLMoe": ("Qwen3VLMoe", {"rope_parameters": _ROPE, "num_experts": 4, **_EXPERTS}, _BLOCKS),
    "Glm4vMoe": (
        "Glm4vMoe",
        {"rope_parameters": {**_ROPE, "partial_rotary_factor": 1.0}, "n_routed_experts": 4,
         "first_k_dense_replace": 1, **_EXPERTS},
        _BLOCKS,
    ),
}  # fmt: skip


def save_whole(folder: Path, name: str, **text: Any) -> Any:
    """Write a folder with a random model; return the model."""
    kind, changes, other = WHOLES[name]
    options = {"text_config": {**_TEXT, **changes, **text}, "vision_config": other}
    config = getattr(transformers, f"{kind}Config")(**options, image_token_id=150)
    config.tie_word_embeddings = options["text_config"]["tie_word_embeddings"]
    torch.manual_seed(0)
    model: Any = getattr(transformers, f"{kind}ForConditionalGeneration")(config).float().eval()
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, 0, 0.1)
    model.save_pretrained(folder)
    return model


def loaded(folder: Path, lines: list[str]) -> Any:
    return load_model(folder, "float32", torch.device("cpu"), False, lines.append)


@torch.inference_mode()
def logits(model: Any, **options: Any) -> torch.Tensor:
    ids = torch.tensor([[number * 37 % 140 for number in range(1, 40)]])
    return model(input_ids=ids, use_cache=False, **options).logits  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", WHOLES)
def test_the_text_has_the_logits_of_the_whole(tmp_path: Path, name: str) -> None:
    whole, lines = save_whole(tmp_path, name), list[str]()
    model = loaded(tmp_path, lines)
    positions = torch.arange(39)[None]
    torch.testing.assert_close(logits(model, position_ids=positions), logits(whole))
    kind = type(whole).__name__
    told = f"only text is served, by {type(model).__name__}: {kind} reads pictures or sounds, too"
    assert lines[0] == told
    assert " weights have no use in text and are not read, e.g. " in lines[1]
    assert sum(p.numel() for p in model.parameters()) < sum(p.numel() for p in whole.parameters())


@pytest.mark.parametrize("name", ["Mistral3", "Qwen3VL"])
def test_a_tied_head_is_that_of_the_whole(tmp_path: Path, name: str) -> None:
    whole = save_whole(tmp_path, name, tie_word_embeddings=True)
    model = loaded(tmp_path, [])
    torch.testing.assert_close(logits(model), logits(whole))


@pytest.mark.parametrize("name", ["Mistral3", "Qwen2_5_VL", "Qwen3VLMoe"])
def test_engines_generate_what_the_whole_does(tmp_path: Path, name: str) -> None:
    whole = save_whole(tmp_path, name)
    prompt = [3, 7, 9, 11, 30, 5]
    config = EngineConfig(dtype="float32", device="cpu", kv_cache_bytes=2**21, threads=1)
    engine = build_engine(tmp_path, config, 1, print)
    found = run(engine, [(0, request("r", prompt))])["r"].tokens
    expected = whole.generate(
        torch.tensor([prompt]), max_new_tokens=8, do_sample=False, eos_token_id=None, pad_token_id=0
    )
    assert found == expected[0, len(prompt) :].tolist()


def test_a_text_leaves_nothing_behind_for_other_models(tmp_path: Path) -> None:
    """The whole's conversions are not for other models of the text's class."""
    save_whole(tmp_path / "whole", "Llava")
    loaded(tmp_path / "whole", [])
    plain = transformers.LlamaForCausalLM(transformers.LlamaConfig(**_TEXT))
    plain.save_pretrained(tmp_path / "plain")
    assert "lm_head.weight" in load_file(tmp_path / "plain" / "model.safetensors")


def test_the_text_may_be_in_8_bit_floats(tmp_path: Path) -> None:
    whole = save_whole(tmp_path, "Qwen3VL")
    file, config = tmp_path / "model.safetensors", tmp_path / "config.json"
    tensors = load_file(file)
    for name, weight in dict(tensors).items():
        if "language_model.layers" in name and name.endswith("proj.weight"):
            scale = weight.abs().max() / 448
            tensors[name] = (weight / scale).to(torch.float8_e4m3fn)
            tensors[f"{name}_scale"] = scale
            whole.get_parameter(name).data = tensors[name].float() * scale
    save_file(tensors, file)
    quantization = {"quant_method": "modelopt", "quant_algo": "FP8"}
    config.write_text(
        json.dumps(json.loads(config.read_text()) | {"quantization_config": quantization})
    )
    lines: list[str] = []
    model = loaded(tmp_path, lines)
    torch.testing.assert_close(logits(model), logits(whole))
    assert any(line.startswith("14 weights of 8-bit floats") for line in lines)
    assert any("weights have no use in text" in line for line in lines)


def test_a_bias_of_the_texts_layers_is_refused_and_one_of_the_towers_is_not(tmp_path: Path) -> None:
    save_whole(tmp_path, "Mistral3")
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    save_file(tensors | {"vision_tower.norm.bias": torch.ones(3)}, file, {"format": "pt"})
    loaded(tmp_path, [])
    name = "language_model.model.layers.0.mlp.up_proj.bias"
    save_file(tensors | {name: torch.ones(96)}, file, {"format": "pt"})
    with pytest.raises(ModelUnsupported, match=r"a bias .* not: model\.layers\.0\.mlp\.up_proj"):
        loaded(tmp_path, [])


def test_a_text_without_its_embeddings_is_refused(tmp_path: Path) -> None:
    save_whole(tmp_path, "Qwen3VL")
    file = tmp_path / "model.safetensors"
    kept = {name: each for name, each in load_file(file).items() if "embed_tokens" not in name}
    save_file(kept, file, {"format": "pt"})
    with pytest.raises(ModelUnsupported, match=r"has no embed_tokens\.weight of \[160, 64\]"):
        loaded(tmp_path, [])


@pytest.mark.parametrize(
    "changes",
    [
        {"architectures": ["T5ForConditionalGeneration"], "model_type": "t5"},
        {"architectures": ["NoSuchForConditionalGeneration"]},
        {"architectures": ["CLIPModel"], "model_type": "clip"},
    ],
)
def test_what_has_no_text_to_generate_is_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    save_whole(tmp_path, "Mistral3")
    file = tmp_path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    with pytest.raises(ModelUnsupported, match="is not a text generation model of transformers"):
        loaded(tmp_path, [])
