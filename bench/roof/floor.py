"""Time the minimum of a forward pass in torch: the model's matrix products and nothing else.

The weights are separate tensors of random values, in the shapes of the model's linear layers: an
engine may pack its weights and free the ones that it was loaded with.
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch.nn.functional import linear

Shape = tuple[int, int]  # outputs, inputs


@dataclass(frozen=True, slots=True)
class ModelSizes:
    """The sizes of a model.

    products: shapes of the linear layers that run for every token.
    head: shape of the language model head, which runs once for each sampled row.
    parameters: elements of all weights; shared ones count once.
    cache_elements: keys and values of one token.
    vocab_size: token ids are below it.
    """

    products: tuple[Shape, ...]
    head: Shape
    parameters: int
    cache_elements: int
    vocab_size: int


def read_sizes(model_path: Path) -> ModelSizes:
    """Return the sizes of a model folder, without loading weights.

    Raises ValueError if the model has no language model head.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(model_path, local_files_only=True)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
    return sizes_of(model, config.get_text_config(decoder=True), stored_elements(model_path))


def sizes_of(model: Any, text_config: Any, parameters: int) -> ModelSizes:
    """Return the sizes of a model. text_config: of its decoder."""
    head = model.get_output_embeddings()
    if head is None:
        raise ValueError(f"{type(model).__name__} has no language model head")
    layers = [m for m in model.modules() if isinstance(m, torch.nn.Linear) and m is not head]
    heads = text_config.num_attention_heads
    head_size = getattr(text_config, "head_dim", None) or text_config.hidden_size // heads
    kv_heads = getattr(text_config, "num_key_value_heads", None) or heads
    return ModelSizes(
        products=tuple(_shape(layer) for layer in layers),
        head=_shape(head),
        parameters=parameters,
        cache_elements=2 * text_config.num_hidden_layers * kv_heads * head_size,
        vocab_size=text_config.vocab_size,
    )


def stored_elements(model_path: Path) -> int:
    """Return the elements of all tensors in a folder's safetensors files."""
    total = 0
    for path in sorted(model_path.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            names = file.keys()
            total += sum(_elements(file.get_slice(name).get_shape()) for name in names)
    return total


class Floor:
    """The `linear` products of a model on random weights."""

    def __init__(self, sizes: ModelSizes, dtype: torch.dtype) -> None:
        self._dtype = dtype
        self._weights = [self._random(shape) for shape in sizes.products]
        self._head = self._random(sizes.head)
        self._inputs: dict[tuple[int, int], torch.Tensor] = {}

    def run(self, rows: int, sampled_rows: int) -> float:
        """Return the seconds of all layers on `rows` rows and the head on `sampled_rows`."""
        inputs = {size: self._input(rows, size) for size in {w.shape[1] for w in self._weights}}
        last = self._input(sampled_rows, self._head.shape[1])
        started_s = time.perf_counter()
        for weight in self._weights:
            linear(inputs[weight.shape[1]], weight)
        linear(last, self._head)
        return time.perf_counter() - started_s

    def _input(self, rows: int, size: int) -> torch.Tensor:
        """Return inputs, made once: only the products are timed."""
        if (rows, size) not in self._inputs:
            self._inputs[rows, size] = self._random((rows, size))
        return self._inputs[rows, size]

    def _random(self, shape: Shape) -> torch.Tensor:
        return torch.randn(shape, dtype=torch.float32).mul_(0.02).to(self._dtype)


def _shape(layer: torch.nn.Linear) -> Shape:
    return (layer.weight.shape[0], layer.weight.shape[1])


def _elements(shape: list[int]) -> int:
    count = 1
    for size in shape:
        count *= size
    return count
