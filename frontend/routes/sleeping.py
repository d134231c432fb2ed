"""POST /sleep and /wake_up, GET /is_sleeping: for the whole pool, answered when done."""

from quart import Blueprint, Response
from quart_schema import document_querystring, document_response

from headrace.frontend.access.required_access import OperatorBlueprint
from headrace.frontend.admin.pool_results import (
    check_answers,
    empty_response,
    read_query,
    target_of,
    value_of,
)
from headrace.frontend.context import Context
from headrace.frontend.http.openapi import document_plain
from headrace.frontend.middleware.errors import json_response
from headrace.frontend.schemas.admin import IsSleeping, PoolQuery, SleepQuery, WakeQuery
from headrace.frontend.schemas.response_bodies import ErrorAnswer
from headrace.protocol.call_results import WorkerActivity
from headrace.protocol.calls import ALL_MEMORY, GetActivity, Sleep, WakeUp
from headrace.protocol.state import ASLEEP

# For releasing memory, after the requests in flight have ended.
RELEASE_S = 60.0
STATE_S = 5.0


def blueprint(context: Context) -> Blueprint:
    routes = OperatorBlueprint("sleeping", __name__)

    @routes.post("/sleep")
    @document_querystring(SleepQuery)
    @document_plain("All sleep; with ?verbose what came of it at each worker.")
    @document_response(ErrorAnswer, 400)
    async def sleep() -> Response:
        """Put workers to sleep: memory is given back until they are woken."""
        query = read_query(SleepQuery)
        call = Sleep(2 if query.level == 2 else 1, query.mode, query.timeout)
        target, timeout_s = target_of(context, query), query.timeout + RELEASE_S
        result = await context.pool.call(call, target, timeout_s)
        return empty_response(check_answers(result), query)

    @routes.post("/wake_up")
    @document_querystring(WakeQuery)
    @document_plain("Everything asked for is restored; with ?verbose the result of each worker.")
    @document_response(ErrorAnswer, 400)
    async def wake_up() -> Response:
        """Wake up workers, or restore a part of the memory that they released."""
        query = read_query(WakeQuery)
        call = WakeUp(tuple(query.tags) or ALL_MEMORY)
        timeout_s = context.config.start_timeout_s
        result = await context.pool.call(call, target_of(context, query), timeout_s)
        return empty_response(check_answers(result), query)

    @routes.get("/is_sleeping")
    @document_querystring(PoolQuery)
    @document_response(IsSleeping)
    async def is_sleeping() -> Response:
        """Tell whether all workers are asleep; with ?verbose also the state of each."""
        query = read_query(PoolQuery)
        result = await context.pool.call(GetActivity(), target_of(context, query), STATE_S)
        states = {
            each.process_id: value_of(each, WorkerActivity).state for each in check_answers(result)
        }
        body = {"is_sleeping": all(state == ASLEEP for state in states.values())}
        if query.verbose:
            workers = [{"name": name, "state": state} for name, state in states.items()]
            return json_response(body | {"workers": workers})
        return json_response(body)

    return routes
