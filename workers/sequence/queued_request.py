"""What waits in an engine's queue, whatever it asks for."""

from dataclasses import dataclass, field

from headrace.protocol.to_worker import EngineRequest

# A tenant, and one of its users: between whom workers are fair.
Owner = tuple[str, str]


@dataclass(slots=True, eq=False)
class QueuedRequest:
    """A request in an engine, as far as its place in the queue goes.

    arrival: the request's number; orders those of equal priority.
    arrived_s, scheduled_s: when it arrived and when it was first scheduled, by time.monotonic.
    """

    request: EngineRequest
    arrival: int
    arrived_s: float
    scheduled_s: float | None = field(default=None, init=False)

    @property
    def owner(self) -> Owner:
        """Whose it is."""
        return self.request.tenant, self.request.user

    @property
    def order(self) -> tuple[int, int]:
        """Sort key: lower ones run earlier and are preempted later."""
        return (self.request.priority, self.arrival)

    @property
    def has_begun(self) -> bool:
        """Whether it has been run before, here or by a worker that died."""
        return self.scheduled_s is not None or self.request.is_replay
