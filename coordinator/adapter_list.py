"""The LoRA adapters that are served, as the run directory keeps them."""

import logging
from pathlib import Path

from headrace.protocol.common.adapters import (
    ServedAdapter,
    forget_adapter,
    read_served,
    write_served,
)
from headrace.protocol.state import AdapterState

log = logging.getLogger(__name__)


class AdapterList:
    """What outlives a coordinator, and what workers that start begin with."""

    def __init__(self, run_dir: Path) -> None:
        self._run_dir = run_dir
        self._served = {each.adapter_id: each for each in read_served(run_dir)}

    def of_group(self, group: str) -> list[ServedAdapter]:
        """In the order in which they came."""
        return [each for each in self._served.values() if each.group == group]

    def states(self, group: str) -> tuple[AdapterState, ...]:
        """The same as it is published."""
        return tuple(each.state for each in self.of_group(group))

    def leaving(self) -> list[ServedAdapter]:
        return [each for each in self._served.values() if each.is_leaving]

    def named(self, name: str) -> ServedAdapter | None:
        """The one that takes requests under a name."""
        return next((each for each in self._all(name) if not each.is_leaving), None)

    def leaving_named(self, name: str) -> ServedAdapter | None:
        """One that has taken requests under a name, and leaves."""
        return next((each for each in self._all(name) if each.is_leaving), None)

    def put(self, adapter: ServedAdapter) -> None:
        """Serve it, or change what is known of it."""
        self._served[adapter.adapter_id] = adapter
        self._save()

    def replace(self, before: ServedAdapter, after: ServedAdapter) -> None:
        """Have requests under their name go to another from now on."""
        self._served[before.adapter_id] = before.model_copy(update={"is_leaving": True})
        self.put(after)

    def remove(self, adapter: ServedAdapter) -> None:
        """Nobody is to have it any more, nor to read its files."""
        if self._served.pop(adapter.adapter_id, None) is not None:
            self._save()
        forget_adapter(self._run_dir, adapter.adapter_id)

    def _all(self, name: str) -> list[ServedAdapter]:
        return [each for each in self._served.values() if each.name == name]

    def _save(self) -> None:
        try:
            write_served(self._run_dir, self._served.values())
        except OSError as error:
            log.error("workers that start will not know of all adapters: %s", error.strerror)
