"""POST /collective_rpc: call a method of all workers by its name."""

from quart import Blueprint, Response
from quart_schema import document_querystring, document_request, document_response

from headrace.frontend.access.required_access import OperatorBlueprint
from headrace.frontend.admin.pool_results import (
    check_answers,
    json_value,
    read_query,
    report_response,
    target_of,
)
from headrace.frontend.admin.rpc import worker_call
from headrace.frontend.context import Context
from headrace.frontend.http.parsing import read_body
from headrace.frontend.schemas.admin import PoolQuery, RpcRequest, RpcResults
from headrace.frontend.schemas.response_bodies import ErrorAnswer

TIMEOUT_S = 60.0


def blueprint(context: Context) -> Blueprint:
    routes = OperatorBlueprint("collective_rpc", __name__)

    @routes.post("/collective_rpc")
    @document_querystring(PoolQuery)
    @document_request(RpcRequest)
    @document_response(RpcResults)
    @document_response(ErrorAnswer, 400)
    async def collective_rpc() -> Response:
        """Have all workers run one of a few methods."""
        query, request = read_query(PoolQuery), await read_body(RpcRequest)
        call = worker_call(request.method, request.args, request.kwargs)
        timeout_s = TIMEOUT_S if request.timeout is None else request.timeout
        target = target_of(context, query)
        answers = check_answers(await context.pool.call(call, target, timeout_s))
        return report_response({"results": [json_value(each) for each in answers]}, answers, query)

    return routes
