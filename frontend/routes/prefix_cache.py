"""POST /reset_prefix_cache: nothing of what has been computed is found again."""

from quart import Blueprint, Response
from quart_schema import document_querystring, document_response

from headrace.frontend.admin.pool_answers import answer, check, read_query, scope_of
from headrace.frontend.context import Context
from headrace.frontend.http.openapi import document_plain
from headrace.frontend.schemas.admin import ResetPrefixCacheQuery, Success
from headrace.frontend.schemas.response_bodies import ErrorAnswer

# It is done between two steps, and one step may take a while.
TIMEOUT_S = 60.0


def blueprint(context: Context) -> Blueprint:
    routes = Blueprint("prefix_cache", __name__)

    @routes.post("/reset_prefix_cache")
    @document_querystring(ResetPrefixCacheQuery)
    @document_response(Success)
    @document_response(ErrorAnswer, 400)
    @document_plain("No worker is there.", 503)
    async def reset_prefix_cache() -> Response:
        """Forget which prefixes are in the workers' caches."""
        query = read_query(ResetPrefixCacheQuery)
        arguments = {"recompute_running": query.reset_running_requests}
        scope = scope_of(context, query)
        result = await context.pool.call("reset_prefix_cache", arguments, scope, TIMEOUT_S)
        return answer({"success": True}, check(result), query)

    return routes
