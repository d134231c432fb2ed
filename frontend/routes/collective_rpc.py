"""POST /collective_rpc: a method of all workers, by its name."""

from quart import Blueprint, Response
from quart_schema import document_querystring, document_request, document_response

from headrace.frontend.admin.pool_answers import answer, check, read_query, scope_of, value_of
from headrace.frontend.admin.rpc import worker_arguments
from headrace.frontend.context import Context
from headrace.frontend.http.parsing import read
from headrace.frontend.schemas.admin import PoolQuery, RpcRequest, RpcResults
from headrace.frontend.schemas.response_bodies import ErrorAnswer

TIMEOUT_S = 60.0


def blueprint(context: Context) -> Blueprint:
    routes = Blueprint("collective_rpc", __name__)

    @routes.post("/collective_rpc")
    @document_querystring(PoolQuery)
    @document_request(RpcRequest)
    @document_response(RpcResults)
    @document_response(ErrorAnswer, 400)
    async def collective_rpc() -> Response:
        """Have all workers run one of a few methods."""
        query, request = read_query(PoolQuery), await read(RpcRequest)
        arguments = worker_arguments(request.method, request.args, request.kwargs)
        timeout_s = TIMEOUT_S if request.timeout is None else request.timeout
        scope = scope_of(context, query)
        answers = check(await context.pool.call(request.method, arguments, scope, timeout_s))
        return answer({"results": [value_of(each) for each in answers]}, answers, query)

    return routes
