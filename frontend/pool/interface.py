"""What routes see of the pool, and how it fails. Routes know nothing of sockets.

PoolError
├── PoolUnavailable   no worker of the group can take the request now         503
├── PoolBusy          every worker's queue is full                            429
├── RequestRejected   the worker found the request itself at fault            400
└── RequestLost       its workers died, more often than it may be replayed    500
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Protocol

from headrace.protocol.state import PoolState
from headrace.protocol.to_frontend import Output, PoolResult
from headrace.protocol.to_worker import Generate


class PoolError(Exception):
    """A request cannot be run; the text is fit to be shown to a client."""


class PoolUnavailable(PoolError):
    def __init__(self, message: str, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class PoolBusy(PoolError):
    def __init__(self, message: str, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class RequestRejected(PoolError):
    pass


class RequestLost(PoolError):
    pass


@dataclass(frozen=True, slots=True)
class Scope:
    """group: whose workers; "": of all groups. worker: one of them, by its id or its place, which
    is "chat-0" of "chat-0.3"; "": all."""

    group: str = ""
    worker: str = ""


class OutputStream(Protocol):
    """The outputs of one request, until one has a finish_reason; may raise PoolError."""

    def __aiter__(self) -> AsyncIterator[Output]: ...

    async def __anext__(self) -> Output: ...

    def ready(self) -> Output | None:
        """The next output if it has come already; None if it would have to be waited for. Raises as
        __anext__ does."""
        ...

    def cancel(self) -> None:
        """Free the request's slot in its worker. Harmless when it has ended; never blocks."""
        ...


class Pool(Protocol):
    def generate(self, group: str, request: Generate) -> OutputStream:
        """Send a request to a worker of the group. Nothing is sent before the first __anext__."""
        ...

    def why_busy(self) -> PoolBusy | None:
        """What any request would fail with now, whatever it asks for; None if it may be taken.
        Whoever gets None is to go on with the request: it may be the one that tries."""
        ...

    async def call(
        self, method: str, arguments: dict[str, Any], scope: Scope, timeout_s: float
    ) -> PoolResult:
        """Have workers do something, and wait until all have answered. PoolUnavailable if the
        coordinator does not answer."""
        ...

    @property
    def state(self) -> PoolState | None:
        """The last known state of the pool; None before the first news."""
        ...
