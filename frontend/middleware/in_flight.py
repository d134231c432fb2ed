"""Count generating requests in flight, and reject them once the frontend drains."""

from headrace.frontend.context import Context
from headrace.frontend.errors import Stopping
from headrace.frontend.middleware import request_scope


def count_in_flight(context: Context) -> None:
    """Count the current request as in flight until it ends, and make it abortable.

    Raises Stopping if the frontend drains.
    """
    if context.drain.has_begun:
        request_scope.current().rejection_reason = "stopping"
        raise Stopping
    context.metrics.enter()
    scope = request_scope.current()
    # A running generation is interrupted itself; before that, reading its prompt may take long.
    scope.cleanups += [
        context.metrics.leave,
        context.abortable.watch(scope, "", scope.interrupt),
    ]
