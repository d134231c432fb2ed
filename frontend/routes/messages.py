"""POST /v1/messages and /v1/messages/count_tokens, as in Anthropic's API."""

from quart import Blueprint, Response
from quart_schema import document_request, document_response

from headrace.frontend.anthropic_api import errors
from headrace.frontend.anthropic_api.chat_request import chat_request, rename_error_fields
from headrace.frontend.anthropic_api.messages_serializer import MessagesSerializer
from headrace.frontend.chat.prompt import chat_prompt
from headrace.frontend.chat.reasoning.plan import can_bound_reasoning
from headrace.frontend.chat.start_chat import start_chat
from headrace.frontend.chat.tools.tool_use import tools_for_template
from headrace.frontend.context import Context
from headrace.frontend.http.parsing import read_body
from headrace.frontend.middleware import request_scope
from headrace.frontend.middleware.errors import json_response
from headrace.frontend.middleware.in_flight import count_in_flight
from headrace.frontend.schemas.messages import CountTokensRequest, MessagesRequest
from headrace.frontend.schemas.response_bodies import (
    AnthropicErrorAnswer,
    AnthropicMessage,
    TokenCount,
)
from headrace.frontend.streaming import stream_response

# Errors below it have Anthropic's shape, too.
PATH = "/v1/messages"


def blueprint(context: Context) -> Blueprint:
    routes = Blueprint("messages", __name__)

    @routes.post(PATH)
    @document_request(MessagesRequest)
    @document_response(AnthropicMessage)
    @document_response(AnthropicErrorAnswer, 400)
    @document_response(AnthropicErrorAnswer, 404)
    async def messages() -> Response:
        """Answer a chat in Anthropic's format, in one piece or as a stream of events."""
        count_in_flight(context)
        return await _answer(context, await read_body(MessagesRequest))

    @routes.post(f"{PATH}/count_tokens")
    @document_request(CountTokensRequest)
    @document_response(TokenCount)
    @document_response(AnthropicErrorAnswer, 400)
    @document_response(AnthropicErrorAnswer, 404)
    async def count_tokens() -> Response:
        """Count the tokens of the prompt that a chat becomes."""
        request = await read_body(CountTokensRequest)
        model = context.model(request.model, "generate")
        chat = await chat_request(request)
        with rename_error_fields(request):
            prompt = await chat_prompt(chat, model, tools_for_template(chat.tools))
        tokens = len(prompt.token_ids)
        counted = {"original_input_tokens": tokens}  # nothing of the prompt is edited out
        return json_response({"input_tokens": tokens, "context_management": counted})

    @routes.after_request
    async def name_request(response: Response) -> Response:
        response.headers["request-id"] = request_scope.current().request_id
        return response

    return routes


async def _answer(context: Context, request: MessagesRequest) -> Response:
    model = context.model(request.model, "generate")
    chat = await chat_request(request, supports_thinking_budget=can_bound_reasoning(model))
    with rename_error_fields(request):
        run = await start_chat(context, chat)
        answer = MessagesSerializer(run)
        if request.stream:
            keep_alive_s = context.config.sse_keep_alive_interval_s
            return await stream_response(
                run.generation, answer, errors.framing(), keep_alive_s=keep_alive_s
            )
        return json_response(await answer.full_body())
