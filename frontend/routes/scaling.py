"""POST /scale_elastic_ep and /is_scaling_elastic_ep: change how many workers a model has."""

from quart import Blueprint, Response
from quart_schema import document_querystring, document_request, document_response

from headrace.frontend.access.required_access import OperatorBlueprint
from headrace.frontend.admin.pool_results import check_result, read_query, target_of
from headrace.frontend.context import Context
from headrace.frontend.errors import ApiError, BadRequest, InvalidBody, PoolFailed
from headrace.frontend.http.parsing import read_body
from headrace.frontend.middleware.errors import json_response
from headrace.frontend.schemas.admin import IsScaling, ModelQuery, Scaled, ScaleRequest
from headrace.frontend.schemas.response_bodies import ErrorAnswer
from headrace.protocol.autoscaling import MOST_WORKERS
from headrace.protocol.call_results import ScalingState
from headrace.protocol.calls import CallTarget, GetScaling, Scale
from headrace.protocol.config import GroupConfig

ASK_S = 5.0
# In addition to the time to start and drain workers.
LATE_S = 30.0


def blueprint(context: Context) -> Blueprint:
    routes = OperatorBlueprint("scaling", __name__)

    @routes.post("/scale_elastic_ep")
    @document_querystring(ModelQuery)
    @document_request(ScaleRequest)
    @document_response(Scaled)
    @document_response(ErrorAnswer, 400)
    @document_response(ErrorAnswer, 409)
    async def scale() -> Response:
        """Start or drain workers until the model has so many; requests go on meanwhile."""
        body = await _read_body()
        target = _target(context, read_query(ModelQuery))
        _check_size(context.config.group(target.group), body.new_data_parallel_size)
        size, drain_s = body.new_data_parallel_size, body.drain_timeout
        start_s = context.config.start_timeout_s
        call, timeout_s = Scale(size, drain_s, start_s), start_s + drain_s + LATE_S
        check_result(await context.pool.call(call, target, timeout_s))
        return json_response({"message": f"Scaled to {size} data parallel engines"})

    @routes.post("/is_scaling_elastic_ep")
    @document_querystring(ModelQuery)
    @document_response(IsScaling)
    async def is_scaling() -> Response:
        """Tell whether the number of workers is being changed."""
        target = target_of(context, read_query(ModelQuery))
        result = check_result(await context.pool.call(GetScaling(), target, ASK_S))
        if not isinstance(result.value, ScalingState):
            raise PoolFailed("The coordinator gave an unexpected answer.")
        return json_response({"is_scaling_elastic_ep": result.value.is_scaling})

    return routes


async def _read_body() -> ScaleRequest:
    """Return the body. Errors have the reference's type."""
    try:
        return await read_body(ScaleRequest)
    except ApiError as error:
        raise InvalidBody(error.message) from None


def _check_size(group: GroupConfig, size: int) -> None:
    """Check the new size of a group. Raises InvalidBody if the group must not have it."""
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


def _target(context: Context, query: ModelQuery) -> CallTarget:
    """Return the target: the group of the named model, or the only group."""
    if query.model is None and len(context.config.groups) > 1:
        raise BadRequest("model: say which, there are several.", "model")
    if query.model is None:
        return CallTarget(context.config.groups[0].name)
    return target_of(context, query)
