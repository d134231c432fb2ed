"""POST /invocations: SageMaker's only route, for requests of all kinds."""

from typing import Any

from quart import Blueprint, Response
from quart_schema import document_request, document_response

from headrace.frontend.context import Context
from headrace.frontend.errors import BadRequest, TaskUnsupported
from headrace.frontend.http.parsing import read_body_as
from headrace.frontend.middleware.in_flight import count_in_flight
from headrace.frontend.routes import chat_completions, completions, embeddings
from headrace.frontend.schemas.chat import ChatCompletionRequest
from headrace.frontend.schemas.completion import CompletionRequest
from headrace.frontend.schemas.embeddings import (
    EmbeddingChatFields,
    EmbeddingRequest,
    embedding_model,
)
from headrace.frontend.schemas.invocations import InvocationRequest
from headrace.frontend.schemas.response_bodies import ErrorAnswer, Invocation
from headrace.protocol.pooling import Task


def blueprint(context: Context) -> Blueprint:
    routes = Blueprint("invocations", __name__)

    @routes.post("/invocations")
    @document_request(InvocationRequest)
    @document_response(Invocation)
    @document_response(ErrorAnswer, 400)
    @document_response(ErrorAnswer, 404)
    async def invocations() -> Response:
        """Answer a chat, continue prompts or embed texts, as the request's fields and its model
        say."""
        count_in_flight(context)
        asked = await read_body_as(lambda body: _request_model(context, body))
        if isinstance(asked, ChatCompletionRequest):
            return await chat_completions.answer(context, asked)
        if isinstance(asked, EmbeddingRequest | EmbeddingChatFields):
            return await embeddings.answer(context, asked)
        return await completions.answer(context, asked)

    return routes


_Requests = (
    type[ChatCompletionRequest]
    | type[CompletionRequest]
    | type[EmbeddingRequest]
    | type[EmbeddingChatFields]
)


def _request_model(context: Context, body: dict[str, Any]) -> _Requests:
    name = body.get("model")
    if "input" in body and _does(context, name, "embed"):
        return embedding_model(body)
    if "messages" in body and not _does(context, name, "generate"):
        return embedding_model(body)
    if "messages" in body:
        return ChatCompletionRequest
    if "prompt" in body:
        return CompletionRequest
    raise BadRequest(
        "The request must hold messages (a chat) or a prompt, or for a model that embeds an input.",
        "prompt",
    )


def _does(context: Context, name: object, task: Task) -> bool:
    """Return whether a request's model does a task; true if no model can be told."""
    if not (name is None or isinstance(name, str)):
        return True
    try:
        context.model(name, task)
    except TaskUnsupported:
        return False
    return True
