"""What an engine needs of whatever keeps its adapters. Imports no torch."""

from pathlib import Path
from typing import Any, Protocol


class EngineAdapters(Protocol):
    """Adapters by their ids. An id stands for one adapter and never for another."""

    @property
    def ids(self) -> frozenset[str]: ...

    def read(self, folder: Path) -> Any:
        """What a folder holds, to be kept. AdapterError if it is no adapter of the model. May take
        long, and be called in any thread."""
        ...

    def put(self, adapter_id: str, adapter: Any) -> None:
        """Keep what has been read. Harmless if the id is there."""
        ...

    def remove(self, adapter_id: str) -> None:
        """Forget an adapter. Harmless if it is not there."""
        ...
