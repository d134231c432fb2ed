"""POST /start_profile and /stop_profile: what the workers' engines do, as traces in a folder."""

from quart import Blueprint, Response
from quart_schema import document_querystring, document_response

from headrace.frontend.admin.pool_answers import check, read_query, report, scope_of
from headrace.frontend.context import Context
from headrace.frontend.errors import BadRequest
from headrace.frontend.http.openapi import document_plain
from headrace.frontend.pool.interface import Scope
from headrace.frontend.schemas.admin import PoolQuery, StartProfileQuery
from headrace.frontend.schemas.response_bodies import ErrorAnswer

# A trace of a minute takes a while to be written.
TIMEOUT_S = 300.0


def blueprint(context: Context) -> Blueprint:
    routes = Blueprint("profiling", __name__)

    async def call(method: str, query: PoolQuery, **arguments: str) -> Response:
        scope = scope_of(context, query)
        if context.config.profile_dir is None:
            raise BadRequest("Profiles need a folder: start the server with --profile-dir.")
        if arguments.get("mode") == "torch":
            _check_torch(context, scope)
        return report(check(await context.pool.call(method, arguments, scope, TIMEOUT_S)), query)

    @routes.post("/start_profile")
    @document_querystring(StartProfileQuery)
    @document_plain("All are profiled from now on; with ?verbose at which it was begun.")
    @document_response(ErrorAnswer, 400)
    async def start_profile() -> Response:
        """Profile the workers until /stop_profile, or for --profile-max-seconds."""
        query = read_query(StartProfileQuery)
        return await call("start_profile", query, mode=query.mode)

    @routes.post("/stop_profile")
    @document_querystring(PoolQuery)
    @document_plain("All traces are written; with ?verbose how each is called.")
    @document_response(ErrorAnswer, 400)
    async def stop_profile() -> Response:
        """Write what was profiled, one file for each worker."""
        return await call("stop_profile", read_query(PoolQuery))

    return routes


def _check_torch(context: Context, scope: Scope) -> None:
    """BadRequest where there is nothing that torch runs."""
    place_group = scope.worker.partition(".")[0].rpartition("-")[0]
    chosen = scope.group or place_group
    groups = [each for each in context.config.groups if chosen in ("", each.name)]
    if groups and all(each.engine.engine == "fake" for each in groups):
        raise BadRequest("mode: the fake engine runs nothing of torch.", "mode")
