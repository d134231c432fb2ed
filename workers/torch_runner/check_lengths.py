"""Choose how long the sequences of the self-check are, by what the model's configuration says.

A model computes something else from some length on: a window or chunk no longer holds all tokens,
scores are scaled by position, frequencies switch, keys are chosen. No shorter sequence shows an
error there.
"""

import math
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, cast

import torch
from transformers.modeling_utils import PreTrainedModel

from headrace.workers.attention.hook import AttentionHook

BEYOND = 17  # tokens by which a sequence is longer than what it crosses
_SMALL = 16  # in place of a number that is too large to be crossed
# What attention, scaling of scores and choices of keys are called in configurations and modules.
_NUMBERS = ("sliding_window", "attention_chunk_size", "floor_scale", "index_topk")
_ORIGINAL = "original_max_position_embeddings"
_CROSSED_BY_CONFIG = ("floor_scale", _ORIGINAL)
_MOST_LAYERS = 8
_HEAD_OUTPUTS = 256


def crossings(model: PreTrainedModel, hook: AttentionHook) -> list[int]:
    """Return the numbers of tokens, ascending, after which the model computes something else."""
    found: set[int] = set()
    for options in hook.options:
        found.update(filter(None, (options.window, options.chunk)))
        if options.sparse is not None:
            found.add(options.sparse.count)
    for config in _mappings(model.config.get_text_config(decoder=True).to_dict()):
        numbers = (config.get(name) for name in _CROSSED_BY_CONFIG)
        found.update(int(n) for n in numbers if isinstance(n, int | float) and n > 0)
    return sorted(found)


def _mappings(config: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    yield config
    for value in config.values():
        if isinstance(value, Mapping):
            yield from _mappings(value)


@contextmanager
def few_layers(model: PreTrainedModel) -> Iterator[float]:
    """Leave a model only its first layers, one of each kind among them, within the context.

    Of a head only the first outputs are left. Yields the share of the layers that is left.
    """
    with ExitStack() as stack:
        head: Any = model.get_output_embeddings()  # type: ignore[no-untyped-call]
        _shorten_head(head, stack)
        found = _find_layers(model)
        if found is None:
            yield 1.0
            return
        parent, name, layers = found
        count = _first_of_each_kind(model, layers)
        setattr(parent, name, layers[:count])
        stack.callback(setattr, parent, name, layers)
        yield count / len(layers)


def _shorten_head(head: Any, stack: ExitStack) -> None:
    """Leave a plain head its first outputs: all of them take as long as many layers."""
    if type(head) is not torch.nn.Linear or type(head.weight) is not torch.nn.Parameter:
        return
    for name in ("weight", "bias"):
        whole = getattr(head, name)
        if whole is not None:  # a parameter of its own: the embedding may share the whole one
            part = torch.nn.Parameter(whole[:_HEAD_OUTPUTS], requires_grad=False)
            setattr(head, name, part)
            stack.callback(setattr, head, name, whole)


@contextmanager
def small_numbers(model: PreTrainedModel, largest: int) -> Iterator[None]:
    """Make the numbers above `largest` that a sequence would have to cross small in the context,
    in the model's modules and configurations alike."""
    with ExitStack() as stack:
        _shrink_numbers(model, largest, stack)
        yield


def _find_layers(
    model: PreTrainedModel,
) -> tuple[torch.nn.Module, str, torch.nn.ModuleList] | None:
    count = getattr(model.config.get_text_config(decoder=True), "num_hidden_layers", None)
    for parent in model.modules():
        for name, child in parent.named_children():
            if isinstance(child, torch.nn.ModuleList) and len(child) == count:
                return parent, name, child
    return None


def _first_of_each_kind(model: PreTrainedModel, layers: torch.nn.ModuleList) -> int:
    """Return how many layers from the first on have one of each kind."""
    config = model.config.get_text_config(decoder=True)
    by_layer = [
        values
        for name in ("layer_types", "no_rope_layers", "mlp_layer_types")
        if isinstance(values := getattr(config, name, None), list) and len(values) == len(layers)
    ]
    kinds: set[Any] = set()
    count = 1
    for number, layer in enumerate(layers):
        modules = tuple(type(module).__name__ for module in layer.modules())
        kind = (modules, *(values[number] for values in by_layer))
        if kind not in kinds and number < _MOST_LAYERS:
            count = number + 1
        kinds.add(kind)
    return count


def _shrink_blocks(owner: Any, largest: int, stack: ExitStack) -> None:
    """Make the blocks that an indexer chooses from small, if it chooses more than enough keys."""
    names = {"block_size": _SMALL // 4, "topk_blocks": 3}
    values: list[Any] = [getattr(owner, name, None) for name in names]
    if all(isinstance(value, int) for value in values) and math.prod(values) > largest:
        for (name, small), value in zip(names.items(), values, strict=True):
            setattr(owner, name, small)
            stack.callback(setattr, owner, name, value)


def _shrink_numbers(model: PreTrainedModel, largest: int, stack: ExitStack) -> None:
    owners: dict[int, Any] = {}
    for module in model.modules():
        for owner in (module, getattr(module, "config", None)):
            owners[id(owner)] = owner
    for owner in owners.values():
        for name in _NUMBERS:
            value = getattr(owner, name, None)
            if isinstance(value, int | float) and value > largest:
                setattr(owner, name, _SMALL)
                stack.callback(setattr, owner, name, value)
        _shrink_blocks(owner, largest, stack)
        ropes = getattr(owner, "rope_parameters", None)
        for rope in _mappings(ropes) if isinstance(ropes, dict) else ():
            if rope.get("rope_type") == "longrope" and rope[_ORIGINAL] > largest:
                own = cast(dict[str, Any], rope)
                stack.callback(own.__setitem__, _ORIGINAL, own[_ORIGINAL])
                own[_ORIGINAL] = _SMALL
