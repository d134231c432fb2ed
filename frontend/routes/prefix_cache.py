"""POST /reset_prefix_cache: forget all cached prefixes."""

from quart import Blueprint, Response
from quart_schema import document_querystring, document_response

from headrace.frontend.access.required_access import OperatorBlueprint
from headrace.frontend.admin.pool_results import (
    check_answers,
    read_query,
    report_response,
    target_of,
)
from headrace.frontend.context import Context
from headrace.frontend.http.openapi import document_plain
from headrace.frontend.schemas.admin import ResetPrefixCacheQuery, Success
from headrace.frontend.schemas.response_bodies import ErrorAnswer
from headrace.protocol.calls import ResetPrefixCache

# Workers do it between two steps, and one step may take a while.
TIMEOUT_S = 60.0


def blueprint(context: Context) -> Blueprint:
    routes = OperatorBlueprint("prefix_cache", __name__)

    @routes.post("/reset_prefix_cache")
    @document_querystring(ResetPrefixCacheQuery)
    @document_response(Success)
    @document_response(ErrorAnswer, 400)
    @document_plain("No worker is there.", 503)
    async def reset_prefix_cache() -> Response:
        """Forget which prefixes are in the workers' caches."""
        query = read_query(ResetPrefixCacheQuery)
        call = ResetPrefixCache(query.reset_running_requests)
        result = await context.pool.call(call, target_of(context, query), TIMEOUT_S)
        return report_response({"success": True}, check_answers(result), query)

    return routes
