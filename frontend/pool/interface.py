"""The pool as routes see it, without sockets, and its errors.

PoolError
├── PoolUnavailable   no worker of the group can take the request now         503
├── PoolBusy          every worker's queue is full                            429
├── RequestRejected   the worker found the request itself invalid             400
└── RequestLost       its workers died more often than it may be replayed     500
"""

from collections.abc import AsyncIterator, Callable, Mapping
from typing import NamedTuple, Protocol, runtime_checkable

from headrace.protocol.calls import AnyCall, CallTarget
from headrace.protocol.state import PoolState
from headrace.protocol.to_frontend import Output, PoolResult
from headrace.protocol.to_worker import Encode, Generate


class PoolError(Exception):
    """A request cannot be run. The text is fit to be shown to a client."""


class PoolUnavailable(PoolError):
    """No worker of the group can take the request now."""

    def __init__(self, message: str, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class PoolBusy(PoolError):
    """The queues of all workers are full."""

    def __init__(self, message: str, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class RequestRejected(PoolError):
    """A worker found the request invalid."""


class RequestLost(PoolError):
    """The request's workers died more often than it may be replayed."""


class OutputStream(Protocol):
    """The outputs of one request, up to one with a finish_reason; may raise PoolError."""

    def __aiter__(self) -> AsyncIterator[Output]: ...

    async def __anext__(self) -> Output: ...

    def ready(self) -> Output | None:
        """Return the next output if it is there; None if it must be awaited.

        Raises what __anext__ raises.
        """
        ...

    def cancel(self) -> None:
        """Free the request's slot in its worker. Idempotent; never blocks."""
        ...


@runtime_checkable
class NotifyingStream(OutputStream, Protocol):
    """An OutputStream that tells when there is an output, so that no task must await it."""

    def listen(self, notify: Callable[[], None]) -> None:
        """Send the request if that has not been done, and call `notify` once for each time that
        `ready` then returns an output or raises."""
        ...


class LiveLoad(NamedTuple):
    """Requests in flight, by workers' and by frontends' ids; those are left out that are not known
    to this process."""

    by_worker: Mapping[str, int] = {}
    by_frontend: Mapping[str, int] = {}


class Pool(Protocol):
    """The pool of workers."""

    def generate(self, group: str, request: Generate) -> OutputStream:
        """Send a request to a worker of the group. Nothing is sent before the first __anext__, or
        `listen`."""
        ...

    def encode(self, group: str, request: Encode) -> OutputStream:
        """Send a request for a text's numbers, as `generate` does; its stream has one output."""
        ...

    def why_busy(self) -> PoolBusy | None:
        """Return the error that any request would fail with now; None if requests may be accepted.
        On None the caller must proceed with its request: it may be the probe request."""
        ...

    async def call(self, call: AnyCall, target: CallTarget, timeout_s: float) -> PoolResult:
        """Make an admin call and return its result. Raises PoolUnavailable if the coordinator does
        not answer."""
        ...

    @property
    def state(self) -> PoolState | None:
        """The last known pool state; None before the first."""
        ...

    def live_load(self) -> LiveLoad:
        """Return the requests in flight now, which the pool state tells some time later."""
        ...
