"""POST /start_profile and /stop_profile: write profiles of the workers to a folder."""

from quart import Blueprint, Response
from quart_schema import document_querystring, document_response

from headrace.frontend.access.required_access import OperatorBlueprint
from headrace.frontend.admin.pool_results import (
    check_answers,
    empty_response,
    read_query,
    target_of,
)
from headrace.frontend.context import Context
from headrace.frontend.errors import BadRequest
from headrace.frontend.http.openapi import document_plain
from headrace.frontend.schemas.admin import PoolQuery, StartProfileQuery
from headrace.frontend.schemas.response_bodies import ErrorAnswer
from headrace.protocol.calls import CallTarget, StartProfile, StopProfile

# Writing the trace of a minute takes a while.
TIMEOUT_S = 300.0


def blueprint(context: Context) -> Blueprint:
    routes = OperatorBlueprint("profiling", __name__)

    async def profile(call: StartProfile | StopProfile, query: PoolQuery) -> Response:
        target = target_of(context, query)
        if context.config.profile_dir is None:
            raise BadRequest("Profiles need a folder: start the server with --profile-dir.")
        if isinstance(call, StartProfile) and call.mode == "torch":
            _check_torch(context, target)
        return empty_response(
            check_answers(await context.pool.call(call, target, TIMEOUT_S)), query
        )

    @routes.post("/start_profile")
    @document_querystring(StartProfileQuery)
    @document_plain("All are profiled from now on; with ?verbose at which it was begun.")
    @document_response(ErrorAnswer, 400)
    async def start_profile() -> Response:
        """Profile the workers until /stop_profile, or for --profile-max-seconds."""
        query = read_query(StartProfileQuery)
        return await profile(StartProfile(query.mode), query)

    @routes.post("/stop_profile")
    @document_querystring(PoolQuery)
    @document_plain("All traces are written; with ?verbose how each is called.")
    @document_response(ErrorAnswer, 400)
    async def stop_profile() -> Response:
        """Stop profiling; each worker writes its profile to a file."""
        return await profile(StopProfile(), read_query(PoolQuery))

    return routes


def _check_torch(context: Context, target: CallTarget) -> None:
    """Check that torch can be profiled.

    Raises BadRequest if all target groups run the fake engine.
    """
    slot_group = target.worker.partition(".")[0].rpartition("-")[0]
    chosen = target.group or slot_group
    groups = [each for each in context.config.groups if chosen in ("", each.name)]
    if groups and not any(each.engine.runs_model for each in groups):
        raise BadRequest("mode: the fake engine runs nothing of torch.", "mode")
