"""POST /v1/chat/completions."""

from quart import Blueprint, Response
from quart_schema import document_request, document_response

from frontend.answers.chat import ROLE, ChatAnswer
from frontend.answers.common import head
from frontend.answers.logprobs import TokenNames
from frontend.answers.respond import check_stream, respond
from frontend.chat.prompts import render_chat
from frontend.context import Context, ServedModel
from frontend.errors import BadRequest
from frontend.generation.prompts import check_encodable, text_prompt
from frontend.generation.sampling import OutputLimit, sampling_params
from frontend.generation.start import Prompt, start
from frontend.middleware.in_flight import count_in_flight
from frontend.parsing import read
from frontend.schemas.answers import ChatCompletion, ErrorAnswer
from frontend.schemas.chat import ChatCompletionRequest
from frontend.text.model import TextModel
from protocol.sampling import SamplingParams


def blueprint(context: Context) -> Blueprint:
    routes = Blueprint("chat_completions", __name__)

    @routes.post("/v1/chat/completions")
    @document_request(ChatCompletionRequest)
    @document_response(ChatCompletion)
    @document_response(ErrorAnswer, 400)
    async def chat_completions() -> Response:
        """Answer a chat, in one piece or as a stream of events."""
        count_in_flight(context.metrics)
        return await _answer(context, await read(ChatCompletionRequest))

    return routes


async def _answer(context: Context, request: ChatCompletionRequest) -> Response:
    model = context.model(request.model)
    _check(request)
    prompt = await _prompt(request, model.text)
    sampling = _sampling(request, model, len(prompt.token_ids))
    names = TokenNames(model.text, bool(request.return_tokens_as_token_ids))
    generation = start(context, model, request, [prompt], [sampling])
    answer = ChatAnswer(head(request, model, "chatcmpl"), request, prompt, names, _echoed(request))
    return await respond(request, generation, answer, bool(request.logprobs))


def _check(request: ChatCompletionRequest) -> None:
    """What fields say only together. BadRequest if they do not fit."""
    if request.top_logprobs and not request.logprobs:
        raise BadRequest("top_logprobs needs logprobs to be true.", "top_logprobs")
    check_stream(request)


async def _prompt(request: ChatCompletionRequest, text: TextModel) -> Prompt:
    variables = dict(request.chat_template_kwargs or {})
    if request.reasoning_effort is not None:
        variables["reasoning_effort"] = request.reasoning_effort
    for message in request.messages:
        check_encodable(text, message.content or "")
    rendered = await render_chat(
        text,
        request.messages,
        # The final message is continued only where no new one is begun.
        add_generation_prompt=request.add_generation_prompt,
        continue_final_message=request.continue_final_message,
        variables=variables,
    )
    return await text_prompt(request, text, rendered, request.add_special_tokens, "messages")


def _sampling(
    request: ChatCompletionRequest, model: ServedModel, prompt_tokens: int
) -> SamplingParams:
    asked, field = request.output_limit
    return sampling_params(
        request,
        model.text.info,
        model.seeds,
        prompt_tokens=prompt_tokens,
        limit=OutputLimit(asked, field),
        logprobs=(request.top_logprobs or 0) if request.logprobs else None,
        prompt_logprobs=request.prompt_logprobs,
    )


def _echoed(request: ChatCompletionRequest) -> str:
    """The final message, if the answer belongs to it and is to begin with it."""
    last = request.messages[-1]
    return (last.content or "") if request.echo and last.role == ROLE else ""
