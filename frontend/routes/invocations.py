"""POST /invocations: SageMaker's only route, for requests of all kinds."""

from typing import Any

from quart import Blueprint, Response
from quart_schema import document_request, document_response

from headrace.frontend.context import Context
from headrace.frontend.errors import BadRequest
from headrace.frontend.http.parsing import read_body_as
from headrace.frontend.middleware.in_flight import count_in_flight
from headrace.frontend.routes import chat_completions, completions
from headrace.frontend.schemas.chat import ChatCompletionRequest
from headrace.frontend.schemas.completion import CompletionRequest
from headrace.frontend.schemas.invocations import InvocationRequest
from headrace.frontend.schemas.response_bodies import ErrorAnswer, Invocation


def blueprint(context: Context) -> Blueprint:
    routes = Blueprint("invocations", __name__)

    @routes.post("/invocations")
    @document_request(InvocationRequest)
    @document_response(Invocation)
    @document_response(ErrorAnswer, 400)
    @document_response(ErrorAnswer, 404)
    async def invocations() -> Response:
        """Answer a chat or continue prompts, whichever the request's fields ask for."""
        count_in_flight(context)
        asked = await read_body_as(_request_model)
        if isinstance(asked, ChatCompletionRequest):
            return await chat_completions.answer(context, asked)
        return await completions.answer(context, asked)

    return routes


def _request_model(body: dict[str, Any]) -> type[ChatCompletionRequest] | type[CompletionRequest]:
    if "messages" in body:
        return ChatCompletionRequest
    if "prompt" in body:
        return CompletionRequest
    raise BadRequest("The request must hold messages (a chat) or a prompt.", "prompt")
