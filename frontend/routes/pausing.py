"""POST /pause and /resume, GET /is_paused: while paused, requests wait and none is lost."""

from quart import Blueprint, Response
from quart_schema import document_querystring, document_response

from headrace.frontend.access.required_access import OperatorBlueprint
from headrace.frontend.admin.pool_results import (
    check_answers,
    read_query,
    report_response,
    target_of,
    value_of,
)
from headrace.frontend.context import Context
from headrace.frontend.middleware.errors import json_response
from headrace.frontend.schemas.admin import IsPaused, PauseQuery, PauseStatus, PoolQuery
from headrace.frontend.schemas.response_bodies import ErrorAnswer
from headrace.protocol.call_results import WorkerActivity
from headrace.protocol.calls import GetActivity, Pause, Resume

# For the current step, after the requests in flight have ended.
STEP_S = 60.0
STATE_S = 5.0


def blueprint(context: Context) -> Blueprint:
    routes = OperatorBlueprint("pausing", __name__)

    @routes.post("/pause")
    @document_querystring(PauseQuery)
    @document_response(PauseStatus)
    @document_response(ErrorAnswer, 400)
    @document_response(ErrorAnswer, 409)
    async def pause() -> Response:
        """Start no more requests until /resume; those that come wait."""
        query = read_query(PauseQuery)
        mode = "wait" if query.wait_for_inflight_requests else query.mode
        call = Pause(mode, query.clear_cache, query.timeout)
        target, timeout_s = target_of(context, query), query.timeout + STEP_S
        result = await context.pool.call(call, target, timeout_s)
        return report_response({"status": "paused"}, check_answers(result), query)

    @routes.post("/resume")
    @document_querystring(PoolQuery)
    @document_response(PauseStatus)
    @document_response(ErrorAnswer, 400)
    async def resume() -> Response:
        """Resume: continue kept requests, and start those that have arrived meanwhile."""
        query = read_query(PoolQuery)
        result = await context.pool.call(Resume(), target_of(context, query), STEP_S)
        return report_response({"status": "resumed"}, check_answers(result), query)

    @routes.get("/is_paused")
    @document_querystring(PoolQuery)
    @document_response(IsPaused)
    async def is_paused() -> Response:
        """Tell whether all workers are paused; with ?verbose, which of them are."""
        query = read_query(PoolQuery)
        result = await context.pool.call(GetActivity(), target_of(context, query), STATE_S)
        states = {
            each.process_id: value_of(each, WorkerActivity).is_paused
            for each in check_answers(result)
        }
        body: dict[str, object] = {"is_paused": all(states.values())}
        if query.verbose:
            body["workers"] = [{"name": name, "is_paused": each} for name, each in states.items()]
        return json_response(body)

    return routes
