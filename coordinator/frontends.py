"""The frontends of a pool, as the registry knows them: who has been started, who has greeted, and
who has fallen silent and is to be killed."""

import logging
from collections.abc import Iterable
from dataclasses import dataclass, replace

from headrace.protocol.state import FrontendLoad, FrontendState
from headrace.protocol.to_coordinator import FrontendHeartbeat, FrontendHello

log = logging.getLogger(__name__)

# A frontend beats four times a second, on the event loop that serves. What holds that up longest
# are large bodies (0.2 s).
LEAST_SILENCE_S = 3.0
# Importing and reading tokenizers come before the first beat.
START_SILENCE_S = 120.0
KILL_AGAIN_S = 2.0


@dataclass
class _Frontend:
    """state: None until it has greeted this coordinator or one before it. greeted: this one."""

    heard_at: float
    state: FrontendState | None = None
    greeted: bool = False
    killed_at: float | None = None


class Frontends:
    """`now` is in seconds of a monotonic clock that does not run while the coordinator does not.

    silence_s: after so much of it a frontend counts as frozen.
    """

    def __init__(self, silence_s: float) -> None:
        self._silence_s = max(silence_s, LEAST_SILENCE_S)
        self._frontends: dict[str, _Frontend] = {}

    def states(self) -> tuple[FrontendState, ...]:
        """Those that serve."""
        known = (each.state for each in self._frontends.values())
        return tuple(state for state in known if state is not None)

    def ids(self) -> list[str]:
        """Of all, also of those that start."""
        return list(self._frontends)

    def knows(self, frontend_id: str) -> bool:
        """Whether it has greeted this coordinator."""
        known = self._frontends.get(frontend_id)
        return known is not None and known.greeted

    def expect(self, frontend_id: str, now: float, published: FrontendState | None = None) -> None:
        """It runs and has not been heard of, except perhaps by a coordinator before this one."""
        self._frontends.setdefault(frontend_id, _Frontend(now, published))

    def keep_only(self, frontend_ids: Iterable[str]) -> None:
        for gone in set(self._frontends) - set(frontend_ids):
            del self._frontends[gone]

    def drop(self, frontend_id: str) -> None:
        self._frontends.pop(frontend_id, None)

    def on_hello(self, message: FrontendHello, now: float) -> None:
        state = FrontendState(message.frontend_id, message.pid, FrontendLoad(in_flight=0))
        known = self._frontends.get(message.frontend_id, _Frontend(now))
        self._frontends[message.frontend_id] = replace(
            known, heard_at=now, state=state, greeted=True
        )

    def on_heartbeat(self, message: FrontendHeartbeat, now: float) -> bool:
        """Whether its load is another one than before."""
        known = self._frontends.get(message.frontend_id)
        if known is None:
            return False
        known.heard_at = now
        if known.state is None or known.state.load == message.load:
            return False
        known.state = replace(known.state, load=message.load)
        return True

    def to_be_killed(self, now: float) -> list[str]:
        """Those that have been silent for too long; once more if they have not ended of it."""
        return [each for each in self._frontends if self._is_to_be_killed(each, now)]

    def _is_to_be_killed(self, frontend_id: str, now: float) -> bool:
        frontend = self._frontends[frontend_id]
        limit_s = START_SILENCE_S if frontend.state is None else self._silence_s
        if frontend.killed_at is not None:
            if now - frontend.killed_at <= KILL_AGAIN_S:
                return False
        elif now - frontend.heard_at <= limit_s:
            return False
        log.error("%s has said nothing for %g s: it is killed", frontend_id, limit_s)
        frontend.killed_at = now
        return True
