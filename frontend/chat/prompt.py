"""A chat request to the prompt that a worker gets."""

from collections.abc import Sequence
from typing import Any

from headrace.frontend.chat.render import render_chat
from headrace.frontend.context import ServedModel
from headrace.frontend.generation.prompts import check_encodable, text_prompt
from headrace.frontend.generation.start_generation import Prompt
from headrace.frontend.schemas.chat import ChatCompletionRequest


async def chat_prompt(
    request: ChatCompletionRequest,
    model: ServedModel,
    tools: Sequence[dict[str, Any]] | None = None,
) -> Prompt:
    """The chat as the model's template writes it, in tokens. BadRequest if it cannot be.

    tools: as the template is told of them.
    """
    text = model.text
    for message in request.messages:
        check_encodable(text, message.content or "")
    rendered = await render_chat(
        text,
        request.messages,
        # The final message is continued only where no new one is begun.
        add_generation_prompt=request.add_generation_prompt,
        continue_final_message=request.continue_final_message,
        variables=template_variables(request, model),
        documents=request.documents,
        own_template=request.chat_template,
        serving=model.group.serving,
        tools=tools,
    )
    return await text_prompt(request, text, rendered, request.add_special_tokens, "messages")


def template_variables(request: ChatCompletionRequest, model: ServedModel) -> dict[str, Any]:
    """What the request gives to the chat template, else the operator. An effort turns thinking on
    or off, too, where templates have a switch for it."""
    variables = dict(request.chat_template_kwargs or {})
    if request.reasoning_effort is not None:
        variables["reasoning_effort"] = request.reasoning_effort
        variables.setdefault("enable_thinking", request.reasoning_effort != "none")
    return {**model.group.serving.default_chat_template_kwargs, **variables}
