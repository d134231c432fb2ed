"""POST /pooling."""

from typing import get_args

from quart import Blueprint, Response
from quart_schema import document_request, document_response

from headrace.frontend.context import Context, ServedModel
from headrace.frontend.errors import BadRequest, TaskUnsupported
from headrace.frontend.http.parsing import read_body_as
from headrace.frontend.middleware.in_flight import count_in_flight
from headrace.frontend.openai_api.embedding_serializer import (
    answer_head,
    number_format_of,
    pooling_item,
    vectors_response,
)
from headrace.frontend.pooling.inputs import inputs_of
from headrace.frontend.pooling.start_encoding import (
    check_dimensions,
    start_encoding,
)
from headrace.frontend.pooling.texts import pooling_of
from headrace.frontend.schemas.pooling.any_task import (
    AnyPoolingRequest,
    PoolingAnswer,
    PoolingBody,
    pooling_model,
)
from headrace.frontend.schemas.response_bodies import ErrorAnswer
from headrace.protocol.pooling import PoolingTask

_TASKS: tuple[PoolingTask, ...] = get_args(PoolingTask)


def blueprint(context: Context) -> Blueprint:
    routes = Blueprint("pooling", __name__)

    @routes.post("/pooling")
    @document_request(PoolingBody)
    @document_response(PoolingAnswer)
    @document_response(ErrorAnswer, 400)
    @document_response(ErrorAnswer, 404)
    async def pooling() -> Response:
        """Turn texts, token ids or a chat into the numbers of any task of the model."""
        count_in_flight(context)
        return await answer(context, await read_body_as(pooling_model))

    return routes


async def answer(context: Context, request: AnyPoolingRequest) -> Response:
    """Answer a request for numbers."""
    model = context.model(request.model, *_TASKS)
    task = _task_of(model, request.task)
    if request.dimensions is not None and not task.endswith("embed"):
        raise BadRequest("dimensions: is of embeddings alone.", "dimensions")
    check_dimensions(model, request.dimensions, param="dimensions")
    dimensions = request.dimensions
    if dimensions is None and task.endswith("embed"):
        dimensions = pooling_of(model).default_dimensions
    inputs = await inputs_of(model, request, task)
    encoding = start_encoding(
        context,
        model,
        request,
        task,
        inputs,
        dimensions=dimensions,
        number_format=number_format_of(request),
    )
    head = answer_head("pooling", request.request_id, model.name, inputs)
    found = await encoding.collect()
    return await vectors_response(head, request, found, pooling_item)


def _task_of(model: ServedModel, wanted: str | None) -> PoolingTask:
    """Return the task to do. Raises BadRequest if the model does not do what is wanted."""
    tasks = [task for task in pooling_of(model).tasks if task != "score"]
    if not tasks:
        raise TaskUnsupported(model.name, model.tasks, "embed")
    if wanted is None:
        return pooling_of(model).default_task or tasks[0]
    for task in tasks:
        if task == wanted:
            return task
    raise BadRequest(f"task: what this model does is {', '.join(tasks)}.", "task")
