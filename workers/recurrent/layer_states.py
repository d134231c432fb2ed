"""The cache that a recurrent layer of transformers sees: how it reads and writes its states."""

from abc import abstractmethod
from typing import Any, NamedTuple

import torch
from transformers.cache_utils import Cache

from headrace.workers.errors import ModelUnsupported


class StateKey(NamedTuple):
    """Which state: a layer keeps several, under the numbers and names that it uses itself."""

    layer: int
    number: int
    kind: str


class LayerStates(Cache):
    """A cache of states alone: keys and values pass through, to the paged cache."""

    def __init__(self) -> None:
        super().__init__(layers=[])

    @abstractmethod
    def read(self, key: StateKey) -> torch.Tensor | None:
        """Return a state [sequences, ...], which its layer may change in place; None: there is
        none before the sequences' first tokens."""

    @abstractmethod
    def write(self, key: StateKey, state: torch.Tensor) -> None:
        """Keep a state [sequences, ...]."""

    def get_conv_state(self, layer_idx: int, state_idx: int = 0) -> torch.Tensor | None:
        return self.read(StateKey(layer_idx, state_idx, "conv"))

    def update_conv_state(
        self,
        conv_states: torch.Tensor,
        layer_idx: int,
        state_idx: int = 0,
        conv_kernel_size: int | None = None,
        **_: Any,
    ) -> torch.Tensor:
        """Append inputs [sequences, ..., tokens] and return them after those that were kept.

        conv_kernel_size: how many are kept; None: as many as the first inputs are.
        """
        key = StateKey(layer_idx, state_idx, "conv")
        before = self.read(key)
        size = conv_kernel_size or conv_states.shape[-1]
        if before is not None:
            full = torch.cat([before, conv_states], dim=-1)
        else:
            missing = max(0, size - conv_states.shape[-1])
            full = torch.nn.functional.pad(conv_states, (missing, 0)) if missing else conv_states
        self.write(key, full[..., -size:])
        return full

    def get_recurrent_state(self, layer_idx: int, state_idx: int = 0) -> torch.Tensor | None:
        return self.read(StateKey(layer_idx, state_idx, "recurrent"))

    def update_recurrent_state(
        self, recurrent_states: torch.Tensor, layer_idx: int, state_idx: int = 0, **_: Any
    ) -> torch.Tensor:
        self.write(StateKey(layer_idx, state_idx, "recurrent"), recurrent_states)
        return recurrent_states

    def get_linear_cache(self, layer_idx: int) -> torch.Tensor | None:
        """Return the state of a layer of MiniMax-Text-01, whose model has a cache of its own."""
        return self.read(StateKey(layer_idx, 0, "linear"))

    def set_linear_cache(self, layer_idx: int, linear_cache: torch.Tensor) -> None:
        self.write(StateKey(layer_idx, 0, "linear"), linear_cache)

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return key_states, value_states

    def update_indexer(self, *_: Any, **__: Any) -> torch.Tensor:
        raise ModelUnsupported("its attention has an index of keys, which paged attention lacks")

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        return query_length, 0

    def get_query_offset(self, layer_idx: int = 0) -> int:
        return 0

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return 0

    def is_recording_past(self, layer_idx: int) -> bool:
        return False
