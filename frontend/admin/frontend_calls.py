"""The admin calls that each frontend answers itself."""

from collections.abc import Callable

from headrace.frontend.abortable import Abortable
from headrace.frontend.adapters import AdapterUse, AdapterWatch
from headrace.frontend.pool.call_handlers import FrontendCallHandlers
from headrace.protocol.call_results import AbortedNames
from headrace.protocol.calls import (
    AbortRequests,
    AwaitAdapterShown,
    AwaitAdapterUnused,
    CallToFrontends,
    check_handled,
)
from headrace.protocol.state import PoolState


def frontend_call_handlers(
    abortable: Abortable, use: AdapterUse, state: Callable[[], PoolState | None]
) -> FrontendCallHandlers:
    """Return the handlers of a frontend's calls. state: returns the last pool state it knows."""

    def abort(call: AbortRequests) -> AbortedNames:
        return AbortedNames(tuple(abortable.abort(call.request_ids, call.group)))

    handlers, watch = FrontendCallHandlers(), AdapterWatch(state, use)
    handlers.add(AbortRequests, abort)
    handlers.add(AwaitAdapterShown, watch.await_shown)
    handlers.add(AwaitAdapterUnused, watch.await_unused)
    check_handled(CallToFrontends, handlers.handled)
    return handlers
