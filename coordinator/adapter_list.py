"""The served LoRA adapters, as they are stored in the run directory."""

import logging
from pathlib import Path

from headrace.protocol.common.adapters import (
    ServedAdapter,
    delete_adapter,
    read_served,
    write_served,
)
from headrace.protocol.state import AdapterState

log = logging.getLogger("headrace.coordinator")


class AdapterList:
    """Survives the coordinator; workers that start load these adapters."""

    def __init__(self, run_dir: Path) -> None:
        self._run_dir = run_dir
        self._served = {each.adapter_id: each for each in read_served(run_dir)}

    def of_group(self, group: str) -> list[ServedAdapter]:
        """Return the adapters of a group, in the order in which they were loaded."""
        return [each for each in self._served.values() if each.group == group]

    def states(self, group: str) -> tuple[AdapterState, ...]:
        """Return them as they are published."""
        return tuple(each.state for each in self.of_group(group))

    def draining(self) -> list[ServedAdapter]:
        """Return the adapters that are being unloaded."""
        return [each for each in self._served.values() if each.is_draining]

    def by_name(self, name: str) -> ServedAdapter | None:
        """Return the adapter that takes requests under a name."""
        return next((each for each in self._all(name) if not each.is_draining), None)

    def draining_by_name(self, name: str) -> ServedAdapter | None:
        """Return a draining adapter that has taken requests under a name."""
        return next((each for each in self._all(name) if each.is_draining), None)

    def put(self, adapter: ServedAdapter) -> None:
        """Add an adapter, or replace its entry."""
        self._served[adapter.adapter_id] = adapter
        self._save()

    def replace(self, before: ServedAdapter, after: ServedAdapter) -> None:
        """Have requests use `after` instead of `before` from now on."""
        self._served[before.adapter_id] = before.model_copy(update={"is_draining": True})
        self.put(after)

    def remove(self, adapter: ServedAdapter) -> None:
        """Remove an adapter and delete its files."""
        if self._served.pop(adapter.adapter_id, None) is not None:
            self._save()
        delete_adapter(self._run_dir, adapter.adapter_id)

    def _all(self, name: str) -> list[ServedAdapter]:
        return [each for each in self._served.values() if each.name == name]

    def _save(self) -> None:
        try:
            write_served(self._run_dir, self._served.values())
        except OSError as error:
            log.error(
                "cannot write the list of adapters, so new workers will lack some: %s",
                error.strerror,
            )
