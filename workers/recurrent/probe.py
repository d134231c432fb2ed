"""Find a model's recurrent layers and the shapes of their states, from one forward pass."""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import (
    register_module_forward_hook,
    register_module_forward_pre_hook,
)
from transformers.cache_utils import DynamicCache, LinearAttentionCacheLayerMixin
from transformers.modeling_utils import PreTrainedModel

from headrace.workers.attention.hook import AttentionHook
from headrace.workers.errors import ModelUnsupported
from headrace.workers.recurrent.layer_states import LayerStates, StateKey
from headrace.workers.recurrent.slots import StateShape
from headrace.workers.recurrent.split import CACHE, split_layers

StateShapes = dict[StateKey, StateShape]


def probe_layers(model: PreTrainedModel, hook: AttentionHook) -> StateShapes:
    """Learn the model's attention layers and its states; empty if it keeps none.

    Its recurrent layers are split from then on (see headrace.workers.recurrent.split).

    Raises ModelUnsupported if it keeps a state that cannot be kept for each sequence.
    """
    if not keeps_states(model):
        hook.probe(model)
        return {}
    name = type(model).__name__
    if CACHE not in inspect.signature(model.forward).parameters:
        raise ModelUnsupported(
            f"{name} keeps its recurrent state outside of transformers' cache, "
            "where sequences cannot have their own"
        )
    recorder = _Recorder()

    def run(token_ids: torch.Tensor) -> None:
        model(input_ids=token_ids, position_ids=token_ids, use_cache=False, cache=recorder)

    try:
        with recorder.watching():
            hook.probe(model, run, may_have_none=True)
    except (LookupError, AttributeError) as error:
        raise ModelUnsupported(
            f"{name} keeps more in its cache than keys, values and recurrent states ({error!r})"
        ) from error
    if not recorder.shapes:
        raise ModelUnsupported(
            f"{name} keeps a recurrent state in its layers, where sequences cannot have their own"
        )
    split_layers(recorder.modules)
    return recorder.shapes


def state_bytes(shapes: StateShapes) -> int:
    """Return the size of a slot."""
    return sum(shape.nbytes for shape in shapes.values())


def in_float32(shapes: StateShapes) -> StateShapes:
    """Return the shapes of the states of a model that has been converted to float32 since."""
    return {
        key: replace(shape, dtype=torch.float32) if shape.dtype.is_floating_point else shape
        for key, shape in shapes.items()
    }


def keeps_states(model: PreTrainedModel) -> bool:
    """Return whether transformers says so: of the class, or of a layer's kind of cache."""
    if getattr(model, "_is_stateful", False):
        return True
    try:
        layers = DynamicCache(config=model.config).layers
    except Exception:  # whatever transformers raises for layers that are unknown to its caches
        return False
    return any(isinstance(layer, LinearAttentionCacheLayerMixin) for layer in layers)


class _Recorder(LayerStates):
    """Records which states are written, and by which modules."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: StateShapes = {}
        self.modules: dict[nn.Module, None] = {}  # in the order of their calls
        self._running: list[nn.Module] = []

    def read(self, key: StateKey) -> None:
        self.modules[self._running[-1]] = None

    def write(self, key: StateKey, state: torch.Tensor) -> None:
        self.modules[self._running[-1]] = None
        self.shapes[key] = StateShape(tuple(state.shape[1:]), state.dtype)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Know within the context which module is running."""

        def enter(module: nn.Module, _: Any) -> None:
            self._running.append(module)

        def leave(*_: Any) -> None:
            self._running.pop()

        hooks = [
            register_module_forward_pre_hook(enter),
            register_module_forward_hook(leave, always_call=True),
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()
