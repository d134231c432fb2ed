"""Turn the texts or chats of requests into what workers get."""

from collections.abc import Sequence

from headrace.frontend.chat.render import render_chat
from headrace.frontend.context import ServedModel
from headrace.frontend.generation.prompts import check_encodable
from headrace.frontend.pooling.texts import EncodeInput, encode_inputs, encode_texts
from headrace.frontend.schemas.pooling.fields import ChatFields, TextFields
from headrace.protocol.pooling import PoolingTask


async def inputs_of(
    model: ServedModel, request: TextFields | ChatFields, task: PoolingTask
) -> Sequence[EncodeInput]:
    """Return the tokens of a request's texts or chats. Raises BadRequest, naming the field."""
    if isinstance(request, TextFields):
        return await encode_inputs(
            request,
            model,
            request.texts,
            add_special_tokens=request.add_special_tokens,
            prompt_name=request.prompt_name,
            task=task,
        )
    texts = [await _render(model, request, index) for index in range(len(request.conversations))]
    return await encode_texts(
        request,
        model,
        texts,
        add_special_tokens=request.add_special_tokens,
        field="messages",
        task=task,
    )


async def _render(model: ServedModel, request: ChatFields, index: int) -> str:
    """Return a chat as the model's template writes it."""
    messages = request.conversations[index]
    for message in messages:
        check_encodable(model.tokenizer, message.content or "", "messages")
    return await render_chat(
        model.tokenizer,
        messages,
        add_generation_prompt=request.add_generation_prompt,
        continue_final_message=request.continue_final_message,
        variables=request.chat_template_kwargs or {},
        request_template=request.chat_template,
        serving=model.group.serving,
    )
