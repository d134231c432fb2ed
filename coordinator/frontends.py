"""The frontends of a pool as the registry knows them: started, serving, or frozen."""

import logging
from collections.abc import Iterable
from dataclasses import dataclass, replace

from headrace.protocol.state import FrontendLoad, FrontendState
from headrace.protocol.to_coordinator import FrontendHeartbeat, FrontendHello

log = logging.getLogger("headrace.coordinator")

# A frontend sends heartbeats four times a second, on the event loop that serves. Large bodies hold
# that up longest (0.2 s).
MIN_SILENCE_S = 3.0
# Imports and tokenizers are loaded before the first heartbeat.
START_SILENCE_S = 120.0
KILL_AGAIN_S = 2.0


@dataclass
class _Frontend:
    """The coordinator's record of a frontend.

    state: None until it has greeted this coordinator or a previous one.
    greeted: whether it has greeted this coordinator.
    """

    heard_at: float
    state: FrontendState | None = None
    greeted: bool = False
    killed_at: float | None = None


class Frontends:
    """All frontends. `now`: seconds of a monotonic clock that stops while the coordinator does.

    silence_s: a frontend that has been silent for longer is frozen.
    """

    def __init__(self, silence_s: float) -> None:
        self._silence_s = max(silence_s, MIN_SILENCE_S)
        self._frontends: dict[str, _Frontend] = {}

    def states(self) -> tuple[FrontendState, ...]:
        """Return the frontends that serve."""
        known = (each.state for each in self._frontends.values())
        return tuple(state for state in known if state is not None)

    def ids(self) -> list[str]:
        """Return the ids of all frontends, starting ones included."""
        return list(self._frontends)

    def knows(self, frontend_id: str) -> bool:
        """Return whether a frontend has greeted this coordinator."""
        known = self._frontends.get(frontend_id)
        return known is not None and known.greeted

    def expect(self, frontend_id: str, now: float, published: FrontendState | None = None) -> None:
        """Add a frontend that runs and has not greeted, except perhaps a previous coordinator."""
        self._frontends.setdefault(frontend_id, _Frontend(now, published))

    def keep_only(self, frontend_ids: Iterable[str]) -> None:
        """Drop all other frontends."""
        for gone in set(self._frontends) - set(frontend_ids):
            del self._frontends[gone]

    def drop(self, frontend_id: str) -> None:
        """Drop a frontend that has ended."""
        self._frontends.pop(frontend_id, None)

    def on_hello(self, message: FrontendHello, now: float) -> None:
        """Note that a frontend serves."""
        state = FrontendState(message.frontend_id, message.pid, FrontendLoad(in_flight=0))
        known = self._frontends.get(message.frontend_id, _Frontend(now))
        self._frontends[message.frontend_id] = replace(
            known, heard_at=now, state=state, greeted=True
        )

    def on_heartbeat(self, message: FrontendHeartbeat, now: float) -> bool:
        """Note a heartbeat; return whether the load has changed."""
        known = self._frontends.get(message.frontend_id)
        if known is None:
            return False
        known.heard_at = now
        if known.state is None or known.state.load == message.load:
            return False
        known.state = replace(known.state, load=message.load)
        return True

    def find_frozen(self, now: float) -> list[str]:
        """Return the frontends to kill, silent for too long; again if they are still there."""
        return [each for each in self._frontends if self._is_frozen(each, now)]

    def _is_frozen(self, frontend_id: str, now: float) -> bool:
        frontend = self._frontends[frontend_id]
        limit_s = START_SILENCE_S if frontend.state is None else self._silence_s
        if frontend.killed_at is not None:
            if now - frontend.killed_at <= KILL_AGAIN_S:
                return False
        elif now - frontend.heard_at <= limit_s:
            return False
        log.error("killing %s: silent for %g s", frontend_id, limit_s)
        frontend.killed_at = now
        return True
