"""GET /server_info: the whole configuration, for the operator."""

from quart import Blueprint, Response
from quart_schema import document_querystring, document_response

from headrace.frontend.admin.pool_answers import answer, check, read_query, scope_of
from headrace.frontend.admin.server_info import as_text, configuration, environment, versions
from headrace.frontend.context import Context
from headrace.frontend.schemas.admin import ServerInfo, ServerInfoQuery
from headrace.frontend.schemas.response_bodies import ErrorAnswer

TIMEOUT_S = 10.0


def blueprint(context: Context) -> Blueprint:
    routes = Blueprint("server_info", __name__)

    @routes.get("/server_info")
    @document_querystring(ServerInfoQuery)
    @document_response(ServerInfo)
    @document_response(ErrorAnswer, 400)
    async def server_info() -> Response:
        """What the pool was started with; with ?verbose what its workers run on, too."""
        query = read_query(ServerInfoQuery)
        scope = scope_of(context, query)
        groups = [scope.group] if scope.group else [each.name for each in context.config.groups]
        told = configuration(context.config, groups)
        body = {
            "vllm_config": as_text(told) if query.config_format == "text" else told,
            "vllm_env": environment(),
            "system_env": versions(),
        }
        if not query.verbose and not query.worker:
            return answer(body, (), query)
        result = await context.pool.call("info", {}, scope, TIMEOUT_S)
        return answer(body, check(result), query)

    return routes
