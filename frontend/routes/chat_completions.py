"""POST /v1/chat/completions."""

from quart import Blueprint, Response
from quart_schema import document_request, document_response

from headrace.frontend.chat.chat_run import ChatRun
from headrace.frontend.chat.start_chat import start_chat
from headrace.frontend.context import Context
from headrace.frontend.generation.operator_defaults import apply_operator_defaults
from headrace.frontend.http.parsing import read_body
from headrace.frontend.middleware.in_flight import count_in_flight
from headrace.frontend.openai_api.chat_serializer import ChatSerializer
from headrace.frontend.openai_api.common import response_head
from headrace.frontend.openai_api.logprobs import TokenNames
from headrace.frontend.openai_api.serialize import check_stream, serialize_response
from headrace.frontend.schemas.chat import ChatCompletionRequest
from headrace.frontend.schemas.response_bodies import ChatCompletion, ErrorAnswer
from headrace.frontend.streaming import stream_response


def blueprint(context: Context) -> Blueprint:
    routes = Blueprint("chat_completions", __name__)

    @routes.post("/v1/chat/completions")
    @document_request(ChatCompletionRequest)
    @document_response(ChatCompletion)
    @document_response(ErrorAnswer, 400)
    @document_response(ErrorAnswer, 404)
    async def chat_completions() -> Response:
        """Answer a chat, in one piece or as a stream of events."""
        count_in_flight(context)
        return await answer(context, await read_body(ChatCompletionRequest))

    return routes


async def answer(context: Context, asked: ChatCompletionRequest) -> Response:
    """Answer a chat."""
    model = context.model(asked.model, "generate")
    request = apply_operator_defaults(asked, model)
    check_stream(request)
    run = await start_chat(context, request)
    names = TokenNames(model.tokenizer, bool(request.return_tokens_as_token_ids))
    answer = ChatSerializer(response_head(request, model, "chatcmpl"), run, names, echoed(run))
    if request.stream:
        keep_alive_s = context.config.sse_keep_alive_interval_s
        return await stream_response(run.generation, answer, keep_alive_s=keep_alive_s)
    answers = await run.answers()
    return await serialize_response(
        lambda: answer.full_body(answers), in_thread=request.has_logprobs
    )


def echoed(run: ChatRun) -> str:
    """Return the final message if the answer continues it and must begin with it; else ""."""
    last = run.request.messages[-1]
    return (last.content or "") if run.request.echo and last.role == run.role else ""
