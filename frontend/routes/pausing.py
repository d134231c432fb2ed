"""POST /pause and /resume, GET /is_paused: requests wait, and none is lost."""

from quart import Blueprint, Response
from quart_schema import document_querystring, document_response

from headrace.frontend.admin.pool_answers import answer, check, read_query, scope_of, value_of
from headrace.frontend.context import Context
from headrace.frontend.middleware.errors import json_response
from headrace.frontend.schemas.admin import IsPaused, PauseQuery, PauseStatus, PoolQuery
from headrace.frontend.schemas.response_bodies import ErrorAnswer

# For what comes after the requests in flight: the step in hand.
STEP_S = 60.0
STATE_S = 5.0


def blueprint(context: Context) -> Blueprint:
    routes = Blueprint("pausing", __name__)

    @routes.post("/pause")
    @document_querystring(PauseQuery)
    @document_response(PauseStatus)
    @document_response(ErrorAnswer, 400)
    async def pause() -> Response:
        """Start no more requests until /resume; those that come wait."""
        query = read_query(PauseQuery)
        arguments = {
            "mode": "wait" if query.wait_for_inflight_requests else query.mode,
            "clear_cache": query.clear_cache,
            "timeout_s": query.timeout,
        }
        scope, timeout_s = scope_of(context, query), query.timeout + STEP_S
        result = await context.pool.call("pause", arguments, scope, timeout_s)
        return answer({"status": "paused"}, check(result), query)

    @routes.post("/resume")
    @document_querystring(PoolQuery)
    @document_response(PauseStatus)
    @document_response(ErrorAnswer, 400)
    async def resume() -> Response:
        """Go on: what was kept, and what has come meanwhile."""
        query = read_query(PoolQuery)
        result = await context.pool.call("resume", {}, scope_of(context, query), STEP_S)
        return answer({"status": "resumed"}, check(result), query)

    @routes.get("/is_paused")
    @document_querystring(PoolQuery)
    @document_response(IsPaused)
    async def is_paused() -> Response:
        """Whether all workers are paused; with ?verbose which."""
        query = read_query(PoolQuery)
        answers = check(await context.pool.call("state", {}, scope_of(context, query), STATE_S))
        states = {each.worker_id: value_of(each)["is_paused"] for each in answers}
        body: dict[str, object] = {"is_paused": all(states.values())}
        if query.verbose:
            body["workers"] = [{"name": name, "is_paused": each} for name, each in states.items()]
        return json_response(body)

    return routes
