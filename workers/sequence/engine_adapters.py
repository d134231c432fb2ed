"""The interface between an engine and the store of its LoRA adapters. Imports no torch."""

from pathlib import Path
from typing import Any, Protocol


class EngineAdapters(Protocol):
    """Adapters by id. An id always stands for the same adapter."""

    @property
    def ids(self) -> frozenset[str]:
        """The ids of the adapters in the store."""
        ...

    def read(self, folder: Path) -> Any:
        """Read the adapter in a folder, for `put`. Slow; safe in any thread.

        Raises AdapterError if the folder holds no adapter that fits the model.
        """
        ...

    def put(self, adapter_id: str, adapter: Any) -> None:
        """Store an adapter that `read` returned. Harmless if the id is there."""
        ...

    def remove(self, adapter_id: str) -> None:
        """Remove an adapter. Harmless if it is not there."""
        ...
