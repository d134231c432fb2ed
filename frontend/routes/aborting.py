"""POST /abort_requests: end requests, whichever frontend has them."""

from quart import Blueprint, Response
from quart_schema import document_querystring, document_request, document_response

from headrace.frontend.access.required_access import OperatorBlueprint
from headrace.frontend.admin.pool_results import (
    check_answers,
    read_query,
    report_response,
    target_of,
    value_of,
)
from headrace.frontend.context import Context
from headrace.frontend.errors import BadRequest
from headrace.frontend.http.parsing import read_body
from headrace.frontend.schemas.admin import AbortReport, AbortRequest, PoolQuery
from headrace.frontend.schemas.response_bodies import ErrorAnswer
from headrace.protocol.call_results import AbortedCount, AbortedNames
from headrace.protocol.calls import AbortAll, AbortRequests

TIMEOUT_S = 5.0


def blueprint(context: Context) -> Blueprint:
    routes = OperatorBlueprint("aborting", __name__)

    @routes.post("/abort_requests")
    @document_querystring(PoolQuery)
    @document_request(AbortRequest)
    @document_response(AbortReport)
    @document_response(ErrorAnswer, 400)
    async def abort_requests() -> Response:
        """End requests by the ids that clients know, or all of them."""
        query, request = read_query(PoolQuery), await read_body(AbortRequest)
        target, everything = target_of(context, query), request.request_ids == "all"
        if target.worker:
            if not everything:
                raise BadRequest('worker: only with request_ids "all".', "worker")
            answers = check_answers(await context.pool.call(AbortAll(), target, TIMEOUT_S))
            count = sum(value_of(each, AbortedCount).count for each in answers)
            return report_response({"aborted": [], "unknown": [], "count": count}, answers, query)
        ids = None if everything else tuple(request.request_ids)
        call = AbortRequests(ids, target.group)
        answers = check_answers(await context.pool.call(call, target, TIMEOUT_S))
        aborted = sorted({n for each in answers for n in value_of(each, AbortedNames).names})
        unknown = [name for name in dict.fromkeys(ids or ()) if name not in aborted]
        body = {"aborted": aborted, "unknown": unknown, "count": len(aborted)}
        return report_response(body, answers, query)

    return routes
