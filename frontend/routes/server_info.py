"""GET /server_info: the whole configuration, for operators."""

from quart import Blueprint, Response
from quart_schema import document_querystring, document_response

from headrace.frontend.access.required_access import OperatorBlueprint
from headrace.frontend.admin.pool_results import (
    check_answers,
    read_query,
    report_response,
    target_of,
)
from headrace.frontend.admin.server_info import as_text, configuration, environment, versions
from headrace.frontend.context import Context
from headrace.frontend.schemas.admin import ServerInfo, ServerInfoQuery
from headrace.frontend.schemas.response_bodies import ErrorAnswer
from headrace.protocol.calls import GetInfo

TIMEOUT_S = 10.0


def blueprint(context: Context) -> Blueprint:
    routes = OperatorBlueprint("server_info", __name__)

    @routes.get("/server_info")
    @document_querystring(ServerInfoQuery)
    @document_response(ServerInfo)
    @document_response(ErrorAnswer, 400)
    async def server_info() -> Response:
        """Describe the pool's configuration; with ?verbose also what its workers run on."""
        query = read_query(ServerInfoQuery)
        target = target_of(context, query)
        groups = [target.group] if target.group else [each.name for each in context.config.groups]
        found = {model.group.name: model.found for model in context.models.values()}
        shown = configuration(context.config, groups, found)
        body = {
            "vllm_config": as_text(shown) if query.config_format == "text" else shown,
            "vllm_env": environment(),
            "system_env": versions(),
        }
        if not query.verbose and not query.worker:
            return report_response(body, (), query)
        result = await context.pool.call(GetInfo(), target, TIMEOUT_S)
        return report_response(body, check_answers(result), query)

    return routes
