"""Count generating requests in flight, and reject them once the frontend drains."""

from quart import Response, after_this_request, request
from werkzeug import Response as WerkzeugResponse

from headrace.frontend.context import Context
from headrace.frontend.errors import Stopping
from headrace.frontend.metrics.pool_info import load_report
from headrace.frontend.middleware import request_scope
from headrace.frontend.middleware.key_limits import admit_request

_AnyResponse = Response | WerkzeugResponse


def count_in_flight(context: Context) -> None:
    """Count the current request as in flight until it ends, and make it abortable.

    Raises Stopping if the frontend drains, RateLimited if its key has reached a limit.
    """
    if context.drain.has_begun:
        request_scope.current().rejection_reason = "stopping"
        raise Stopping
    admit_request(context)
    context.metrics.enter()
    scope = request_scope.current()
    # A running generation is interrupted itself; before that, reading its prompt may take long.
    scope.cleanups += [
        context.metrics.leave,
        context.abortable.watch(scope, "", scope.interrupt),
    ]
    form = request.headers.get("endpoint-load-metrics-format")
    if form is not None:

        @after_this_request
        def report_load(response: _AnyResponse) -> _AnyResponse:
            """Tell a load balancer how busy the pool is, if its request asks for that."""
            if (report := load_report(context.pool.state, form)) is not None:
                response.headers["endpoint-load-metrics"] = report
            return response
