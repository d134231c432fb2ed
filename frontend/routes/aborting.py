"""POST /abort_requests: requests end, whichever frontend has them."""

from quart import Blueprint, Response
from quart_schema import document_querystring, document_request, document_response

from headrace.frontend.admin.pool_answers import answer, check, read_query, scope_of, value_of
from headrace.frontend.context import Context
from headrace.frontend.errors import BadRequest
from headrace.frontend.http.parsing import read
from headrace.frontend.schemas.admin import AbortReport, AbortRequest, PoolQuery
from headrace.frontend.schemas.response_bodies import ErrorAnswer

TIMEOUT_S = 5.0


def blueprint(context: Context) -> Blueprint:
    routes = Blueprint("aborting", __name__)

    @routes.post("/abort_requests")
    @document_querystring(PoolQuery)
    @document_request(AbortRequest)
    @document_response(AbortReport)
    @document_response(ErrorAnswer, 400)
    async def abort_requests() -> Response:
        """End requests by the ids that clients know, or all of them."""
        query, request = read_query(PoolQuery), await read(AbortRequest)
        scope, everything = scope_of(context, query), request.request_ids == "all"
        if scope.worker:
            if not everything:
                raise BadRequest('worker: only with request_ids "all".', "worker")
            answers = check(await context.pool.call("abort_all", {}, scope, TIMEOUT_S))
            count = sum(value_of(each) for each in answers)
            return answer({"aborted": [], "unknown": [], "count": count}, answers, query)
        ids = None if everything else list(request.request_ids)
        arguments = {"request_ids": ids, "group": scope.group}
        answers = check(await context.pool.call("abort_requests", arguments, scope, TIMEOUT_S))
        aborted = sorted({name for each in answers for name in value_of(each)})
        unknown = [name for name in dict.fromkeys(ids or ()) if name not in aborted]
        body = {"aborted": aborted, "unknown": unknown, "count": len(aborted)}
        return answer(body, answers, query)

    return routes
