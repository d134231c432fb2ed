"""The adapters of the fake engine. Does not import torch."""

from pathlib import Path
from zlib import crc32

from headrace.workers.lora.adapter_config import CONFIG_FILE, read_config


class FakeAdapters:
    """See headrace.workers.sequence.engine_adapters.Adapters. An adapter is the checksum of its
    adapter_config.json, whose fields are not validated."""

    def __init__(self) -> None:
        self._checksums: dict[str, int] = {}

    @property
    def ids(self) -> frozenset[str]:
        return frozenset(self._checksums)

    def read(self, folder: Path) -> int:
        config = read_config(folder)
        text = f"{CONFIG_FILE}:{sorted(config.items(), key=lambda item: item[0])}"
        return crc32(text.encode(errors="replace")) or 1

    def put(self, adapter_id: str, adapter: int) -> None:
        self._checksums.setdefault(adapter_id, adapter)

    def remove(self, adapter_id: str) -> None:
        self._checksums.pop(adapter_id, None)

    def checksum(self, adapter_id: str) -> int:
        """Return an adapter's checksum, the same in all workers; 0 for no adapter."""
        return self._checksums[adapter_id] if adapter_id else 0
