"""Requests for text: counted while they are being answered, and not begun any more at the end."""

from headrace.frontend.context import Context
from headrace.frontend.errors import Stopping
from headrace.frontend.middleware import request_scope


def count_in_flight(context: Context) -> None:
    """The current request is in flight, until it has ended in whatever way. Stopping if the server
    is."""
    if context.drain.has_begun:
        request_scope.current().refusal = "stopping"
        raise Stopping
    context.metrics.enter()
    scope = request_scope.current()
    # A text that has begun is interrupted itself; until then, its prompt may take long to be read.
    scope.cleanups += [
        context.metrics.leave,
        context.abortable.watch(scope, "", scope.interrupt),
    ]
