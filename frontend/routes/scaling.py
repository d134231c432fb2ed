"""POST /scale_elastic_ep and /is_scaling_elastic_ep: how many workers a model has."""

import json

from quart import Blueprint, Response
from quart_schema import document_querystring, document_request, document_response

from headrace.frontend.admin.pool_answers import check_done, read_query, scope_of
from headrace.frontend.context import Context
from headrace.frontend.errors import ApiError, BadRequest, InvalidBody
from headrace.frontend.http.parsing import read
from headrace.frontend.middleware.errors import json_response
from headrace.frontend.pool.interface import Scope
from headrace.frontend.schemas.admin import IsScaling, ModelQuery, Scaled, ScaleRequest
from headrace.frontend.schemas.response_bodies import ErrorAnswer
from headrace.protocol.autoscaling import MOST_WORKERS
from headrace.protocol.config import GroupConfig

ASK_S = 5.0
# Beyond what workers have to come and to go.
LATE_S = 30.0


def blueprint(context: Context) -> Blueprint:
    routes = Blueprint("scaling", __name__)

    @routes.post("/scale_elastic_ep")
    @document_querystring(ModelQuery)
    @document_request(ScaleRequest)
    @document_response(Scaled)
    @document_response(ErrorAnswer, 400)
    @document_response(ErrorAnswer, 409)
    async def scale() -> Response:
        """Start or drain workers until the model has so many; requests go on meanwhile."""
        wanted = await _read()
        scope = _scope(context, read_query(ModelQuery))
        _check_size(context.config.group(scope.group), wanted.new_data_parallel_size)
        size, drain_s = wanted.new_data_parallel_size, wanted.drain_timeout
        start_s = context.config.start_timeout_s
        arguments = {"size": size, "drain_timeout_s": drain_s, "start_timeout_s": start_s}
        timeout_s = start_s + drain_s + LATE_S
        check_done(await context.pool.call("scale", arguments, scope, timeout_s))
        return json_response({"message": f"Scaled to {size} data parallel engines"})

    @routes.post("/is_scaling_elastic_ep")
    @document_querystring(ModelQuery)
    @document_response(IsScaling)
    async def is_scaling() -> Response:
        """Whether the number of workers is just being changed."""
        query = read_query(ModelQuery)
        group = "" if query.model is None else context.model(query.model).group.name
        result = check_done(await context.pool.call("is_scaling", {}, Scope(group), ASK_S))
        return json_response({"is_scaling_elastic_ep": json.loads(result.value)})

    return routes


async def _read() -> ScaleRequest:
    """The body. What is wrong with it is told as the reference does."""
    try:
        return await read(ScaleRequest)
    except ApiError as error:
        raise InvalidBody(error.message) from None


def _check_size(group: GroupConfig, size: int) -> None:
    """InvalidBody for a size that the group never has."""
    limits = group.autoscaling
    if limits is None:
        least, most, because = 1, MOST_WORKERS, ""
    else:
        least, most = limits.min_workers, limits.max_workers
        because = ", which min_workers and max_workers allow"
    if not least <= size <= most:
        raise InvalidBody(
            f"new_data_parallel_size: must be at least {least} and at most {most}{because}."
        )


def _scope(context: Context, query: ModelQuery) -> Scope:
    """Whose workers: those of the only model, or of the one that is named."""
    if query.model is None and len(context.config.groups) > 1:
        raise BadRequest("model: say which, there are several.", "model")
    if query.model is None:
        return Scope(context.config.groups[0].name)
    return scope_of(context, query)
