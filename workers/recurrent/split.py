"""Run recurrent layers for each sequence of a step, while all else runs on one row of tokens."""

import functools
import inspect
from collections.abc import Iterable, Sequence
from typing import Any, cast

import torch
from torch import nn

from headrace.workers.recurrent.layer_states import LayerStates
from headrace.workers.recurrent.selective_scan import (
    begin_scans_from_states,
    scanning_from,
    scans_from_zeros,
)
from headrace.workers.recurrent.slots import StepPart, StepStates

CACHE = "cache"  # transformers' name of the argument


def split_layers(layers: Iterable[nn.Module]) -> None:
    """Replace the layers' forward passes by ones that split the rows of a step.

    Such a pass does so if its cache is a step's, and is as it was for any other.
    """
    for layer in layers:
        part_forward = layer.forward
        if scans_from_zeros(layer):
            begin_scans_from_states(layer)
            part_forward = _scanning(layer.forward, cast(int, layer.layer_idx))
        layer.forward = _split(layer.forward, part_forward)


def _scanning(forward: Any, layer: int) -> Any:
    """Return a forward pass whose scans begin with the layer's state."""

    def scanning_forward(cache: LayerStates, **named: Any) -> Any:
        with scanning_from(cache.get_recurrent_state(layer)):
            return forward(cache=cache, **named)

    return scanning_forward


def _split(forward: Any, part_forward: Any) -> Any:
    """Return a forward pass that calls `part_forward` for each part of a step."""
    names = list(inspect.signature(forward).parameters)
    position = names.index(CACHE)

    @functools.wraps(forward)
    def split_forward(*args: Any, **named: Any) -> Any:
        states = args[position] if position < len(args) else named.get(CACHE)
        if not isinstance(states, StepStates):
            return forward(*args, **named)
        named.update(zip(names, args, strict=False))
        named.pop(CACHE)
        return _run_parts(part_forward, states, named)

    return split_forward


def _run_parts(forward: Any, step: StepStates, named: dict[str, Any]) -> Any:
    outputs = []
    for part in step.parts:
        taken = {name: _take(value, part, step.num_rows) for name, value in named.items()}
        output = forward(**taken, **{CACHE: part.states})
        part.states.finish_layer()
        outputs.append(_put_back(output, part))
    return outputs[0] if len(outputs) == 1 else _join(outputs)


def _take(value: Any, part: StepPart, num_rows: int) -> Any:
    """Return a part's share of an argument: of tensors [1, rows, ...], those rows."""
    if isinstance(value, tuple):
        return tuple(_take(item, part, num_rows) for item in value)
    if not isinstance(value, torch.Tensor) or value.shape[:2] != (1, num_rows):
        return value
    if part.num_rows != num_rows:
        value = value[:, part.first_row : part.first_row + part.num_rows]
    if not part.is_batch:
        return value
    rows = value.transpose(0, 1)
    return rows if part.order is None else rows.index_select(0, part.order)


def _put_back(output: Any, part: StepPart) -> Any:
    """Return a part's output as [1, rows, ...]."""
    if isinstance(output, tuple):
        return tuple(_put_back(item, part) for item in output)
    shape = (part.num_rows, 1) if part.is_batch else (1, part.num_rows)
    if not isinstance(output, torch.Tensor) or output.shape[:2] != shape:
        return None  # such as a state, or attention weights: nothing of ours reads it
    if not part.is_batch:
        return output
    if part.inverse is not None:
        output = output.index_select(0, part.inverse)
    return output.transpose(0, 1)


def _join(outputs: Sequence[Any]) -> Any:
    first = outputs[0]
    if isinstance(first, tuple):
        return tuple(_join(items) for items in zip(*outputs, strict=True))
    if not all(isinstance(output, torch.Tensor) for output in outputs):
        return None
    return torch.cat(list(outputs), dim=1)
