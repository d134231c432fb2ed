"""In the launcher's place under systemd: says who runs and who has ended, and kills on order.

Starting is systemd's part.
"""

import logging

from headrace.coordinator.registry import Order
from headrace.protocol import PROTOCOL_VERSION, to_launcher
from headrace.protocol.common.clean_up import clean_up_after
from headrace.protocol.common.process_registry import FRONTEND, WORKER, Member, Roll
from headrace.protocol.config import PoolConfig
from headrace.protocol.to_coordinator import ChildExited, LauncherHello

log = logging.getLogger(__name__)


class RollCall:
    def __init__(self, config: PoolConfig) -> None:
        self._config = config
        self._roll = Roll(config.run_dir)
        self._members: dict[str, Member] | None = None

    def news(self) -> list[ChildExited | LauncherHello]:
        """What a launcher would have said since the last call."""
        roles = (WORKER, FRONTEND)
        present = {each.process_id: each for role in roles for each in self._roll.members(role)}
        before, self._members = self._members, present
        news: list[ChildExited | LauncherHello] = []
        for process_id, member in (before or {}).items():
            if process_id not in present:
                clean_up_after(self._config, member)
                news.append(ChildExited(process_id, member.role, None))
        if before is None or present.keys() - before.keys():
            news.append(self._hello(list(present.values())))
        return news

    def obey(self, order: Order) -> None:
        match order:
            case to_launcher.KillWorker(process_id) | to_launcher.KillFrontend(process_id):
                member = (self._members or {}).get(process_id)
            case _:
                return
        try:
            if member is not None:
                self._roll.kill(member)
        except OSError as error:
            log.error("%s cannot be killed: %s", process_id, error)

    def _hello(self, present: list[Member]) -> LauncherHello:
        ids = {
            role: tuple(each.process_id for each in present if each.role == role)
            for role in (WORKER, FRONTEND)
        }
        newest = self._roll.newest_ids(WORKER)
        return LauncherHello(PROTOCOL_VERSION, ids[WORKER], ids[FRONTEND], newest)
