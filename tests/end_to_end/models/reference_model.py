"""transformers itself on the default model's file."""

import importlib.util
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from headrace.launcher.models.prepare_model import DEFAULT_PACKAGE


def find_default_file() -> Path:
    """Return the default model's GGUF file."""
    spec = importlib.util.find_spec(DEFAULT_PACKAGE)
    assert spec is not None
    (folder,) = spec.submodule_search_locations or []
    (file,) = Path(folder).glob("*.gguf")
    return file


def load_reference() -> Any:
    """Return transformers' model of the default GGUF file, in float32."""
    file = find_default_file()
    model: Any = AutoModelForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, dtype=torch.float32
    )
    return model.train(False)
