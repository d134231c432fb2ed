"""Turn the vectors of a text's tokens into its numbers, as sentence-transformers' modules do.

All in float32, whatever the model computes in: means of many rounded numbers would be off. One text
at a time, so that a text's numbers do not depend on those beside it.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.nn import functional

from headrace.protocol.common.pooling.model_setup import PoolingSetup
from headrace.protocol.common.pooling.module_layers import (
    DenseModule,
    LayerNormModule,
    ModuleLayer,
)
from headrace.protocol.common.pooling.sentence_modules import SentenceModules
from headrace.protocol.to_frontend import Pooled
from headrace.protocol.to_worker import Encode
from headrace.workers.errors import ModelUnsupported
from headrace.workers.pooling.runner import EncodeResult, TextPooler
from headrace.workers.sequence.sequence import Failure

if TYPE_CHECKING:  # an embedder whose program is cached needs no transformers
    from headrace.workers.lora.slots import AdapterSlots
    from headrace.workers.native.adapter_slots import NativeAdapterSlots

NOT_FINITE = Failure("rejected", "input: the model's numbers for this text are not finite")
_FORMATS = {
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "fp8_e4m3": torch.float8_e4m3fn,
    "fp8_e5m2": torch.float8_e5m2,
}
_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "Identity": lambda numbers: numbers,
    "Tanh": torch.tanh,
    "ReLU": torch.relu,
    "GELU": functional.gelu,
    "SiLU": functional.silu,
    "Sigmoid": torch.sigmoid,
}


class RoutedPooler(TextPooler):
    """Pools texts of different kinds in different ways. Raises ModelUnsupported as a Pooler."""

    def __init__(
        self, modules: SentenceModules, device: torch.device, step_tag_id: int | None = None
    ) -> None:
        self._default = modules.default_route
        self._poolers = {
            name: Pooler(route, device, step_tag_id) for name, route in modules.routes.items()
        }

    def pool(
        self, request: Encode, vectors: Tensor, head: Mapping[str, Tensor] | None = None
    ) -> EncodeResult:
        """Return a text's numbers. vectors: of its tokens [tokens, size]."""
        known = request.route if request.route in self._poolers else self._default
        return self._poolers[known].pool(request, vectors)


class Pooler(TextPooler):
    """Pools as a folder's modules say. Raises ModelUnsupported if a module's weights do not fit.

    step_tag_id: of the tokens whose vectors are answered where those of tokens are; None: of all.
    """

    def __init__(
        self, modules: SentenceModules, device: torch.device, step_tag_id: int | None = None
    ) -> None:
        self._step_tag_id = step_tag_id
        self._modes, self._normalizes = modules.modes, modules.normalizes
        self._layers = [_layer(each, device) for each in modules.layers]

    def pool(
        self, request: Encode, vectors: Tensor, head: Mapping[str, Tensor] | None = None
    ) -> EncodeResult:
        """Return a text's numbers. vectors: of its tokens [tokens, size]."""
        text = vectors.float()[request.prompt_length :]
        numbers = text
        if request.task == "token_embed" and not request.compared_with:
            ids = request.prompt_token_ids[request.prompt_length :]
            numbers = of_steps(text, ids, self._step_tag_id)
        if request.task == "embed":
            numbers = torch.cat([_MODES[mode](text) for mode in self._modes], dim=-1)
        if request.task == "embed" or not self._modes:
            for layer in self._layers:
                numbers = layer(numbers)
        return self._finish(request, numbers)

    def _finish(self, request: Encode, numbers: Tensor) -> EncodeResult:
        """Cut, normalize and write numbers [..., size]."""
        if request.dimensions is not None:
            numbers = numbers[..., : request.dimensions]
        normalizes = self._normalizes if request.activates is None else request.activates
        if normalizes:
            numbers = functional.normalize(numbers, dim=-1)
        if request.compared_with:
            numbers = _late_interaction(request.compared_with, numbers)
        if not bool(torch.isfinite(numbers).all()):
            return NOT_FINITE
        return Pooled(to_bytes(numbers, request.number_format), tuple(numbers.shape))


def pooler_of(setup: PoolingSetup, device: torch.device) -> TextPooler:
    """Return what pools the vectors of a model that embeds."""
    kind = RoutedPooler if setup.modules.routes else Pooler
    return kind(setup.modules, device, setup.step_tag_id)


def head_of(
    slots: "NativeAdapterSlots | AdapterSlots | None", adapter: str
) -> Mapping[str, Tensor] | None:
    """Return what an adapter has for the model's head; None without one."""
    if not adapter:
        return None
    assert slots is not None
    assert slots.store is not None
    return slots.store[adapter].head


def of_steps(rows: Tensor, token_ids: Sequence[int], tag: int | None) -> Tensor:
    """Return the rows of those of a text's tokens that have an id; None: all."""
    if tag is None:
        return rows
    return rows[torch.tensor(token_ids, device=rows.device) == tag]


def join_pieces(request: Encode, mean: Sequence[float], normalizes: bool) -> EncodeResult:
    """Return the numbers of a text that ran in pieces; see PoolingRunner.join."""
    numbers = torch.tensor(mean, dtype=torch.float32)
    if normalizes if request.activates is None else request.activates:
        numbers = functional.normalize(numbers, dim=-1)
    return Pooled(to_bytes(numbers, request.number_format), tuple(numbers.shape))


def _late_interaction(query: bytes, rows: Tensor) -> Tensor:
    """Return, as one number, the highest product of each of a query's vectors with one of a text's,
    added up.

    MaxSim, of "ColBERT: Efficient and Effective Passage Search via Contextualized Late Interaction
    over BERT" (Khattab and Zaharia, 2020).
    """
    vectors = torch.frombuffer(bytearray(query), dtype=torch.float32).view(-1, rows.shape[-1])
    return (vectors.to(rows.device) @ rows.T).amax(dim=1).sum().unsqueeze(0)


def to_bytes(numbers: Tensor, number_format: str) -> bytes:
    """Return numbers in a format, in the byte order of this machine."""
    numbers = numbers.contiguous().cpu()
    if number_format != "float32":
        numbers = numbers.to(_FORMATS[number_format])
    return numbers.view(torch.uint8).numpy().tobytes()


def _layer(module: ModuleLayer, device: torch.device) -> Callable[[Tensor], Tensor]:
    match module:
        case DenseModule():
            return _Dense(module, device)
        case LayerNormModule():
            return _LayerNorm(module, device)
    return partial(functional.normalize, dim=-1)


class _Dense:
    """A linear layer and its activation, for vectors."""

    def __init__(self, module: DenseModule, device: torch.device) -> None:
        self._activation = _ACTIVATIONS.get(module.activation)
        if self._activation is None:
            raise ModelUnsupported(f"{module.folder}: {module.activation} is not supported")
        shapes: dict[str, tuple[int, ...]] = {"linear.weight": (module.outputs, module.inputs)}
        if module.has_bias:
            shapes["linear.bias"] = (module.outputs,)
        weights = _read_weights(module.folder, shapes)
        self._weight = weights["linear.weight"].to(device)
        self._bias = weights["linear.bias"].to(device) if module.has_bias else None

    def __call__(self, vectors: Tensor) -> Tensor:
        assert self._activation is not None
        return self._activation(functional.linear(vectors, self._weight, self._bias))


class _LayerNorm:
    """A layer norm, for vectors."""

    def __init__(self, module: LayerNormModule, device: torch.device) -> None:
        self._size = (module.size,)
        weights = _read_weights(module.folder, {"norm.weight": self._size, "norm.bias": self._size})
        self._weight, self._bias = (
            weights[name].to(device) for name in ("norm.weight", "norm.bias")
        )

    def __call__(self, vectors: Tensor) -> Tensor:
        return functional.layer_norm(vectors, self._size, self._weight, self._bias)


def _read_weights(folder: Path, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Return tensors of a folder, in float32. Raises ModelUnsupported if one is not there."""
    file = folder / "model.safetensors"
    try:
        with safe_open(file, framework="pt") as opened:
            names = {*shapes} & {*opened.keys()}
            found = {name: opened.get_tensor(name).float() for name in names}
    except FileNotFoundError:
        raise ModelUnsupported(f"{folder}: has no model.safetensors") from None
    except (OSError, SafetensorError) as error:
        raise ModelUnsupported(f"{file}: cannot be read") from error
    for name, shape in shapes.items():
        if name not in found or tuple(found[name].shape) != shape:
            raise ModelUnsupported(f"{folder}: no {name} of the shape {shape}")
    return found


def _first(rows: Tensor) -> Tensor:
    return rows[0]


def _last(rows: Tensor) -> Tensor:
    return rows[-1]


def _max(rows: Tensor) -> Tensor:
    return rows.amax(dim=0)


def _mean(rows: Tensor) -> Tensor:
    return rows.sum(dim=0) / len(rows)


def _mean_sqrt(rows: Tensor) -> Tensor:
    return rows.sum(dim=0) / math.sqrt(len(rows))


def _weighted_mean(rows: Tensor) -> Tensor:
    """Weigh each token by its place in the text, from 1."""
    weights = torch.arange(1, len(rows) + 1, dtype=rows.dtype, device=rows.device)
    return (rows * weights.unsqueeze(1)).sum(dim=0) / weights.sum()


_MODES: dict[str, Callable[[Tensor], Tensor]] = {
    "cls": _first,
    "max": _max,
    "mean": _mean,
    "mean_sqrt_len_tokens": _mean_sqrt,
    "weightedmean": _weighted_mean,
    "lasttoken": _last,
}
