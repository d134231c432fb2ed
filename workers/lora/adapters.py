"""What an engine needs of whatever keeps its adapters. Imports no torch."""

from pathlib import Path
from typing import Protocol


class Adapters(Protocol):
    """Adapters by their ids. An id stands for one adapter and never for another."""

    @property
    def ids(self) -> frozenset[str]: ...

    def add(self, adapter_id: str, folder: Path) -> None:
        """Keep what a folder holds. AdapterError if it is no adapter of the model; nothing is kept
        of it then. Harmless if the id is there."""
        ...

    def remove(self, adapter_id: str) -> None:
        """Forget an adapter. Harmless if it is not there."""
        ...
