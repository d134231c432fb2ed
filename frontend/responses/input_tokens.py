"""Count the tokens that a request's input is to the model."""

from functools import partial

from headrace.frontend.chat.prompt import chat_prompt
from headrace.frontend.chat.tools.tool_use import tools_for_template
from headrace.frontend.context import Context
from headrace.frontend.errors import ApiError
from headrace.frontend.process.worker_thread import MANY_PARTS, run_in_worker_thread
from headrace.frontend.responses.offered_tools import offered_tools
from headrace.frontend.responses.request.chat_request import chat_request, rename_fields
from headrace.frontend.responses.request.requested_tools import RequestedTools
from headrace.frontend.responses.request.tool_choice import chat_tool_choice
from headrace.frontend.responses.request_items import RequestItems
from headrace.frontend.responses.server_tools import ServerTools
from headrace.frontend.responses.store.journal import Journal
from headrace.frontend.schemas.responses import ResponsesRequest


async def count_input_tokens(
    context: Context, request: ResponsesRequest, requested: RequestedTools, items: RequestItems
) -> int:
    """Return how many tokens the prompt of a response's first turn has.

    Raises ApiError, which names the field, if the request could not be run.
    """
    model = context.model(request.model, "generate")
    listed = ServerTools(requested, Journal())
    await listed.list_all()
    choice, tools = chat_tool_choice(request.tool_choice, offered_tools(requested, listed))
    all_items = [*items.earlier, *items.inputs]
    translate = partial(
        chat_request,
        request,
        all_items,
        tools=tools,
        tool_choice=choice,
        max_tokens=request.max_output_tokens,
        seed=0,
        max_model_len=model.tokenizer.info.max_model_len,
    )
    chat = await run_in_worker_thread(translate, len(all_items) > MANY_PARTS)
    hides_tools = choice == "none" and model.group.serving.exclude_tools_when_tool_choice_none
    try:
        prompt = await chat_prompt(
            chat, model, None if hides_tools else tools_for_template(chat.tools)
        )
    except ApiError as error:
        raise rename_fields(error) from error
    return len(prompt.token_ids)
