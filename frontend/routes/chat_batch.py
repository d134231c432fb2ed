"""POST /v1/chat/completions/batch."""

import asyncio

from quart import Blueprint, Response
from quart_schema import document_request, document_response

from headrace.frontend.chat.batch import gather_answers, join_answers
from headrace.frontend.chat.start_chat import start_chat
from headrace.frontend.context import Context
from headrace.frontend.generation.operator_defaults import apply_operator_defaults
from headrace.frontend.generation.start_generation import check_choice_count, check_token_lists
from headrace.frontend.http.parsing import read_body
from headrace.frontend.middleware.in_flight import count_in_flight
from headrace.frontend.openai_api.chat_serializer import ChatSerializer
from headrace.frontend.openai_api.common import response_head
from headrace.frontend.openai_api.logprobs import TokenNames
from headrace.frontend.openai_api.serialize import check_stream, serialize_response
from headrace.frontend.routes.chat_completions import echoed
from headrace.frontend.schemas.chat_batch import ChatBatchRequest
from headrace.frontend.schemas.response_bodies import ChatCompletion, ErrorAnswer


def blueprint(context: Context) -> Blueprint:
    routes = Blueprint("chat_batch", __name__)

    @routes.post("/v1/chat/completions/batch")
    @document_request(ChatBatchRequest)
    @document_response(ChatCompletion)
    @document_response(ErrorAnswer, 400)
    @document_response(ErrorAnswer, 404)
    async def chat_batch() -> Response:
        """Answer several chats at once: a choice for each, in their order."""
        count_in_flight(context)
        return await _answer(context, await read_body(ChatBatchRequest))

    return routes


async def _answer(context: Context, asked: ChatBatchRequest) -> Response:
    model = context.model(asked.model, "generate")
    request = apply_operator_defaults(asked, model)
    check_stream(request)
    check_choice_count(request, len(request.messages), "messages")
    check_token_lists(request, len(request.messages))
    top = response_head(request, model, "chatcmpl")
    names = TokenNames(model.tokenizer, bool(request.return_tokens_as_token_ids))
    # No chat runs before all have turned out to be valid.
    runs = []
    for chat in request.conversations():
        runs.append(await start_chat(context, chat))
        await asyncio.sleep(0)  # so that other requests get their turn
    chats = [ChatSerializer(top, run, names, echoed(run)) for run in runs]
    answers = await gather_answers(runs)
    return await serialize_response(
        lambda: join_answers(
            [chat.full_body(of_one) for chat, of_one in zip(chats, answers, strict=True)]
        ),
        in_thread=request.has_logprobs,
    )
