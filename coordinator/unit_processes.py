"""Stands in for the launcher under systemd: reports processes that run and end, and kills.

systemd itself starts them.
"""

import logging

from headrace.coordinator.registry import LauncherOrder
from headrace.protocol import PROTOCOL_VERSION, to_launcher
from headrace.protocol.common.clean_up import remove_leftovers
from headrace.protocol.common.process_registry import (
    FRONTEND,
    WORKER,
    ProcessRegistry,
    RegisteredProcess,
    Role,
)
from headrace.protocol.config import PoolConfig
from headrace.protocol.to_coordinator import ChildExited, LauncherHello

log = logging.getLogger("headrace.coordinator")


class UnitProcesses:
    """The workers and frontends that systemd runs, found by the process registry."""

    def __init__(self, config: PoolConfig) -> None:
        self._config = config
        self._processes = ProcessRegistry(config.run_dir)
        self._members: dict[str, RegisteredProcess] | None = None

    def poll_changes(self) -> list[ChildExited | LauncherHello]:
        """Return the messages that a launcher would have sent since the last call."""
        roles: tuple[Role, ...] = (WORKER, FRONTEND)
        try:
            present = {
                each.process_id: each for role in roles for each in self._processes.running(role)
            }
        except OSError as error:  # no descriptors left: nothing is known to have changed
            log.warning("cannot look which processes run: %s", error.strerror)
            return []
        before, self._members = self._members, present
        messages: list[ChildExited | LauncherHello] = []
        for process_id, member in (before or {}).items():
            if process_id not in present:
                remove_leftovers(self._config, member)
                messages.append(ChildExited(process_id, member.role, None))
        if before is None or present.keys() - before.keys():
            messages.append(self._hello(list(present.values())))
        return messages

    def execute(self, order: LauncherOrder) -> None:
        """Execute an order to kill a process; ignore orders to start one."""
        match order:
            case to_launcher.KillWorker(process_id) | to_launcher.KillFrontend(process_id):
                member = (self._members or {}).get(process_id)
            case _:
                return
        try:
            if member is not None:
                self._processes.kill(member)
        except OSError as error:
            log.error("cannot kill %s: %s", process_id, error)

    def _hello(self, present: list[RegisteredProcess]) -> LauncherHello:
        ids = {
            role: tuple(each.process_id for each in present if each.role == role)
            for role in (WORKER, FRONTEND)
        }
        newest = self._processes.newest_ids(WORKER)
        return LauncherHello(PROTOCOL_VERSION, ids[WORKER], ids[FRONTEND], newest)
