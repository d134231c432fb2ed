"""GGUF files of many architectures compute what transformers' own models compute."""

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch

from headrace.protocol.common.gguf_reference import write_reference
from headrace.workers.prepare.gguf_folder import make_model
from headrace.workers.prepare.gguf_header import GGUFError, read_gguf_header
from headrace.workers.prepare.gguf_models.facts import ModelFacts
from headrace.workers.prepare.gguf_models.registry import find_architecture
from headrace.workers.prepare.gguf_models.rope import RopeFactors, llama3_factors
from headrace.workers.prepare.gguf_places import place_tensors
from headrace.workers.prepare.gguf_rope_check import check_rope
from headrace.workers.prepare.gguf_vocabulary import Vocabulary
from headrace.workers.quantized.parameter import expand_parameters
from headrace.workers.torch_runner.gguf_loading import load_gguf_model
from tests.workers.gguf_models.converter import convert, write_file
from tests.workers.gguf_models.tiny import HEAD_DIM, MODELS, VOCAB, metadata_of

F16, Q8_0, Q4_0 = (getattr(gguf.GGMLQuantizationType, name) for name in ("F16", "Q8_0", "Q4_0"))
IDS = torch.randint(3, VOCAB - 4, (1, 45), generator=torch.Generator().manual_seed(3))
NO_WORDS = Vocabulary("", "", [], [], [], [], {}, [2], {}, {})


def read_back(file: Path, factors: dict[str, Any], folder: Path) -> Any:
    """Return the model that a file holds, as it is served."""
    header = read_gguf_header(file)
    facts = ModelFacts([header])
    architecture = find_architecture(facts)
    rope = RopeFactors(factors)
    model = make_model(architecture, facts, rope, NO_WORDS)
    check_rope(model, facts, rope)
    places = place_tensors([header], architecture, facts, model)
    known = {key.partition(".")[2] for key in header.metadata}
    assert facts.refuse_unread(known) == []
    folder.mkdir(exist_ok=True)
    model.config.save_pretrained(folder)
    write_reference(folder, [file], places)
    served: Any = load_gguf_model(folder, type(model), torch.float32)
    return served.eval()


def written(file: Path, name: str, kinds: Any = lambda _: F16) -> tuple[Any, Any, dict[str, Any]]:
    """Write a tiny model; return it, the file's tensors, and its rotary factors."""
    tiny = MODELS[name]
    model = tiny.build()
    tensors = dict(convert(model, tiny.architecture))
    factors = {}
    if name == "llama3":
        factors["rope_freqs"] = llama3_factors(10000.0, HEAD_DIM // 2, 8.0, 64)
        tensors["rope_freqs.weight"] = torch.from_numpy(factors["rope_freqs"]).float()
    stored = write_file(file, tiny.architecture, tensors, metadata_of(tiny, model.config), kinds)
    return model, stored, factors


@torch.inference_mode()
def logits(model: Any) -> torch.Tensor:
    found: torch.Tensor = model(input_ids=IDS, use_cache=False).logits
    return found


@pytest.mark.parametrize("name", MODELS)
def test_an_architecture_computes_the_same(tmp_path: Path, name: str) -> None:
    model, _, factors = written(tmp_path / "tiny.gguf", name)
    served = read_back(tmp_path / "tiny.gguf", factors, tmp_path / "model")
    assert type(served) is type(model)
    expected = logits(model)
    error = (logits(served) - expected).square().mean().sqrt() / expected.std()
    assert error < 1e-4


@pytest.mark.parametrize("name", ["llama", "gemma3", "granitemoe", "deepseek2", "qwen35", "llama4"])
def test_blocks_become_what_the_gguf_package_reads(tmp_path: Path, name: str) -> None:
    """The converter makes of the served model what the file has, in several formats."""
    kinds = {"attn_output": Q4_0, "ffn_down": F16, "token_embd": Q4_0, "ffn_up_exps": Q4_0}
    tiny = MODELS[name]
    _, stored, factors = written(
        tmp_path / "tiny.gguf",
        name,
        lambda tensor: next((kind for part, kind in kinds.items() if part in tensor), Q8_0),
    )
    served = read_back(tmp_path / "tiny.gguf", factors, tmp_path / "model")
    expand_parameters(served)
    again = dict(convert(served, tiny.architecture))
    assert again.keys() == stored.keys() - {"rope_freqs.weight"}
    for tensor, numbers in again.items():
        torch.testing.assert_close(numbers, stored[tensor], rtol=1e-6, atol=1e-6, msg=tensor)


def refusal(
    tmp_path: Path, change: Any = lambda tensors: None, more: dict[str, Any] | None = None
) -> str:
    """Return why a file with other tensors or metadata is refused."""
    tiny = MODELS["llama"]
    model = tiny.build()
    tensors = dict(convert(model, tiny.architecture))
    change(tensors)
    values = {**metadata_of(tiny, model.config), **(more or {})}
    write_file(tmp_path / "odd.gguf", tiny.architecture, tensors, values, lambda _: F16)
    with pytest.raises(GGUFError) as found:
        read_back(tmp_path / "odd.gguf", {}, tmp_path / "model")
    return str(found.value)


def test_what_llama_cpp_acts_on_is_never_left_out(tmp_path: Path) -> None:
    assert "attn_logit_softcapping" in refusal(tmp_path, more={"attn_logit_softcapping": 30.0})
    assert "sliding_window" in refusal(tmp_path, more={"attention.sliding_window": 8})
    assert "'dynamic'" in refusal(tmp_path, more={"rope.scaling.type": "dynamic"})
    assert "rotates 40 of 16 numbers" in refusal(tmp_path, more={"rope.dimension_count": 40})
    assert "later tokens" in refusal(tmp_path, more={"attention.causal": False})


def test_tensors_and_weights_without_each_other_are_refused(tmp_path: Path) -> None:
    extra = {"blk.1.attn_gate.weight": torch.zeros(32, 32)}
    assert "blk.1.attn_gate.weight" in refusal(tmp_path, lambda tensors: tensors.update(extra))
    missing = refusal(tmp_path, lambda tensors: tensors.pop("blk.2.ffn_up.weight"))
    assert "lacks 1 weights that its model needs: model.layers.2.mlp.up_proj.weight" in missing
    wrong = {"blk.2.ffn_up.weight": torch.zeros(96, 32)}
    assert "(96, 32) instead of (96, 64)" in refusal(
        tmp_path, lambda tensors: tensors.update(wrong)
    )


def test_a_model_that_would_rotate_otherwise_is_refused(tmp_path: Path) -> None:
    """Llama's class rotates whole heads, whatever its configuration says."""
    reason = refusal(tmp_path, more={"rope.dimension_count": 8})
    assert reason == "rotates by other frequencies than LlamaRotaryEmbedding computes"


def test_factors_that_are_not_llama3s(tmp_path: Path) -> None:
    tiny = MODELS["llama"]
    model = tiny.build()
    factors = np.linspace(1.0, 5.0, HEAD_DIM // 2)
    tensors = {
        **dict(convert(model, "llama")),
        "rope_freqs.weight": torch.from_numpy(factors).float(),
    }
    write_file(
        tmp_path / "tiny.gguf", "llama", tensors, metadata_of(tiny, model.config), lambda _: F16
    )
    served = read_back(tmp_path / "tiny.gguf", {"rope_freqs": factors}, tmp_path / "model")
    plain = model.model.rotary_emb.inv_freq
    rotary = served.model.rotary_emb
    for length in (16, 255):  # at each length the same
        rotary(torch.zeros(1), torch.arange(length)[None])
        torch.testing.assert_close(rotary.inv_freq, plain / torch.from_numpy(factors).float())
    assert rotary.attention_scaling == 1.0


def test_factors_by_length_are_phis(tmp_path: Path) -> None:
    tiny = MODELS["phi3"]
    model = tiny.build()
    short, long = np.linspace(1.0, 1.7, 8), np.linspace(1.0, 8.0, 8)
    tensors = dict(convert(model, "phi3"))
    tensors["rope_factors_short.weight"] = torch.from_numpy(short).float()
    tensors["rope_factors_long.weight"] = torch.from_numpy(long).float()
    scaled = {"rope.scaling.attn_factor": 1.25, "rope.scaling.original_context_length": 64}
    values = {**metadata_of(tiny, model.config), **scaled}
    write_file(tmp_path / "tiny.gguf", "phi3", tensors, values, lambda _: F16)
    found = {"rope_factors_short": short, "rope_factors_long": long}
    served = read_back(tmp_path / "tiny.gguf", found, tmp_path / "model")
    rope = served.config.rope_parameters
    assert (rope["rope_type"], rope["original_max_position_embeddings"]) == ("longrope", 64)
    assert served.model.rotary_emb.attention_scaling == 1.25
    plain = model.model.rotary_emb.inv_freq
    for length, factors in ((60, short), (70, long)):
        served.model.rotary_emb(torch.zeros(1), torch.arange(length)[None])
        expected = plain / torch.from_numpy(factors).float()
        torch.testing.assert_close(served.model.rotary_emb.inv_freq, expected)
