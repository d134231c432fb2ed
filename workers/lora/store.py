"""The adapters of an engine, in the host's memory, independent of runners and sleep."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from headrace.workers.lora.adapter_files import Adapter, LinearShape, read_adapter


class AdapterStore:
    """The adapters that were read, for EngineAdapters (workers/sequence/engine_adapters.py).

    layers: those that adapters may change. head: the parameters of the model's head, which they may
        replace; None: they may not.
    """

    def __init__(
        self,
        layers: Mapping[str, LinearShape],
        max_rank: int,
        head: Mapping[str, Tensor] | None = None,
    ) -> None:
        self._head = head
        self._layers = layers
        self._max_rank = max_rank
        self._adapters: dict[str, Adapter] = {}

    @property
    def ids(self) -> frozenset[str]:
        return frozenset(self._adapters)

    def __getitem__(self, adapter_id: str) -> Adapter:
        return self._adapters[adapter_id]

    def read(self, folder: Path) -> Adapter:
        return read_adapter(folder, self._layers, self._max_rank, self._head)

    def put(self, adapter_id: str, adapter: Adapter) -> None:
        self._adapters.setdefault(adapter_id, adapter)

    def remove(self, adapter_id: str) -> None:
        self._adapters.pop(adapter_id, None)
