"""GGUF files of many architectures compute what transformers' own models compute."""

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch

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
from headrace.protocol.common.gguf_reference import write_reference
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
    return load_gguf_model(folder, type(model), torch.float32).eval()


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
