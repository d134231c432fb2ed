"""POST /invocations: SageMaker's only route, for requests of all kinds."""

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, get_args

from quart import Blueprint, Response
from quart_schema import document_request, document_response

from headrace.frontend.context import Context
from headrace.frontend.errors import BadRequest, TaskUnsupported
from headrace.frontend.http.parsing import read_body_as
from headrace.frontend.middleware.in_flight import count_in_flight
from headrace.frontend.routes import chat_completions, completions
from headrace.frontend.routes.pooling import any_task, classify, cohere, embeddings, scoring
from headrace.frontend.schemas.chat import ChatCompletionRequest
from headrace.frontend.schemas.completion import CompletionRequest
from headrace.frontend.schemas.fields import RequestModel
from headrace.frontend.schemas.invocations import InvocationRequest
from headrace.frontend.schemas.pooling.any_task import (
    PoolingChatRequest,
    PoolingRequest,
    pooling_model,
)
from headrace.frontend.schemas.pooling.classify import (
    ClassifyChatRequest,
    ClassifyRequest,
    classify_model,
)
from headrace.frontend.schemas.pooling.cohere import CohereEmbedRequest
from headrace.frontend.schemas.pooling.embeddings import (
    EmbeddingChatFields,
    EmbeddingRequest,
    embedding_model,
)
from headrace.frontend.schemas.pooling.scoring import RerankRequest, ScoringFields, score_model
from headrace.frontend.schemas.response_bodies import ErrorAnswer, Invocation
from headrace.protocol.pooling import PoolingTask, Task

_POOLING: tuple[PoolingTask, ...] = get_args(PoolingTask)
_SCORED = ("text_1", "text_2", "queries", "data_1", "data_2")


def blueprint(context: Context) -> Blueprint:
    routes = Blueprint("invocations", __name__)

    @routes.post("/invocations")
    @document_request(InvocationRequest)
    @document_response(Invocation)
    @document_response(ErrorAnswer, 400)
    @document_response(ErrorAnswer, 404)
    async def invocations() -> Response:
        """Answer a chat, continue prompts, or turn texts into numbers, as the request's fields and
        its model say."""
        count_in_flight(context)
        return await _answer(context, await read_body_as(partial(_request_model, context)))

    return routes


async def _answer(context: Context, asked: RequestModel) -> Response:
    """Answer a request as its own route does."""
    for kinds, answer in _ANSWERS:
        if isinstance(asked, kinds):
            response: Response = await answer(context, asked)
            return response
    raise AssertionError(f"no route takes {type(asked).__name__}")


_ANSWERS: tuple[tuple[tuple[type[RequestModel], ...], Callable[..., Awaitable[Any]]], ...] = (
    ((ChatCompletionRequest,), chat_completions.answer),
    ((CompletionRequest,), completions.answer),
    ((EmbeddingRequest, EmbeddingChatFields), embeddings.answer),
    ((ClassifyRequest, ClassifyChatRequest), classify.answer),
    ((PoolingRequest, PoolingChatRequest), any_task.answer),
    ((RerankRequest,), scoring.answer_rerank),
    ((ScoringFields,), scoring.answer_score),
    ((CohereEmbedRequest,), cohere.answer),
)


def _request_model(context: Context, body: dict[str, Any]) -> type[RequestModel]:
    name = body.get("model")
    if "query" in body:
        return RerankRequest
    if any(field in body for field in _SCORED):
        return score_model(body)
    if "texts" in body or "inputs" in body:
        return CohereEmbedRequest
    if "input" in body or ("messages" in body and not _does(context, name, "generate")):
        tasks = _does(context, name, *_POOLING)
        if tasks:
            return _numbers_model(tasks, body)
    if "messages" in body:
        return ChatCompletionRequest
    if "prompt" in body:
        return CompletionRequest
    raise BadRequest(
        "The request must hold messages (a chat) or a prompt, or for a model that pools an input, "
        "or texts to score.",
        "prompt",
    )


def _numbers_model(tasks: Sequence[Task], body: dict[str, Any]) -> type[RequestModel]:
    """Return the class of a request for numbers: of the route for what its model does first."""
    wanted = body.get("task")
    if "embed" in tasks and wanted in (None, "embed"):
        return embedding_model(body)
    if "classify" in tasks and wanted in (None, "classify"):
        return classify_model(body)
    return pooling_model(body)


def _does(context: Context, name: object, *wanted: Task) -> Sequence[Task]:
    """Return what a request's model does, if that is one of the tasks, else nothing.

    If no model can be told, it is what is wanted: the error is that of the request's fields.
    """
    if not (name is None or isinstance(name, str)):
        return wanted
    try:
        return context.model(name, *wanted).tasks
    except TaskUnsupported:
        return ()
