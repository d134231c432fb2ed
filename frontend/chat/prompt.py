"""Turn a chat request into the prompt that a worker gets."""

from collections.abc import Sequence
from typing import Any

from headrace.frontend.chat.render import render_chat
from headrace.frontend.context import ServedModel
from headrace.frontend.generation.prompts import check_encodable, encoding_scope, text_prompt
from headrace.frontend.generation.start_generation import Prompt
from headrace.frontend.schemas.chat import ChatCompletionRequest


async def chat_prompt(
    request: ChatCompletionRequest,
    model: ServedModel,
    tools: Sequence[dict[str, Any]] | None = None,
) -> Prompt:
    """Render the chat with the model's template and tokenize it. Raises BadRequest if that fails.

    tools: as the template gets them.
    """
    tokenizer = model.tokenizer
    for message in request.messages:
        check_encodable(tokenizer, message.content or "")
    rendered = await render_chat(
        tokenizer,
        request.messages,
        # render_chat rejects both flags together.
        add_generation_prompt=request.add_generation_prompt,
        continue_final_message=request.continue_final_message,
        variables=template_variables(request, model),
        documents=request.documents,
        request_template=request.chat_template,
        serving=model.group.serving,
        tools=tools,
    )
    return await text_prompt(
        request,
        tokenizer,
        rendered,
        request.add_special_tokens,
        "messages",
        encoding_scope(request, model),
    )


def template_variables(request: ChatCompletionRequest, model: ServedModel) -> dict[str, Any]:
    """Return the variables for the chat template: the request's, else the operator's defaults.

    A reasoning effort also sets `enable_thinking`, the switch that many templates have.
    """
    variables = dict(request.chat_template_kwargs or {})
    serving = model.group.serving
    if request.reasoning_effort is not None:
        effort = serving.reasoning_effort_map.get(
            request.reasoning_effort, request.reasoning_effort
        )
        variables["reasoning_effort"] = effort
        variables.setdefault("enable_thinking", effort != "none")
    return {**serving.default_chat_template_kwargs, **variables}
