"""What a request's tools demand of the text."""

from headrace.frontend.chat.tools.grammars import forced_arguments, forced_calls, strict_calls
from headrace.frontend.chat.tools.tool_use import ToolUse
from headrace.frontend.errors import BadRequest
from headrace.frontend.schemas.generation import GenerationRequest
from headrace.frontend.structured.constraint import Constraint, request_constraint, lark_constraint
from headrace.frontend.text.model_tokenizer import ModelTokenizer


def chat_constraint(request: GenerationRequest, use: ToolUse, text: ModelTokenizer) -> Constraint | None:
    """What the text of a chat must conform to; None if anything goes. BadRequest if its fields do
    not fit.

    A call that is demanded goes before response_format, which is for answers without one.
    """
    is_forced = use.mode in ("required", "named")
    if is_forced and request.structured_outputs is not None:
        raise BadRequest(
            "structured_outputs cannot be used where tool_choice demands a call.",
            "structured_outputs",
        )
    asked = (
        None if is_forced else request_constraint(request.response_format, request.structured_outputs)
    )
    if asked is not None:
        return asked
    try:
        grammar = _grammar(use, text)
    except RecursionError as error:
        raise BadRequest("tools: a schema is nested too deeply.", "tools") from error
    if grammar is not None and request.use_beam_search:
        raise BadRequest("use_beam_search: calls cannot be held to a form.", "use_beam_search")
    return None if grammar is None else lark_constraint(grammar, "tools")


def _grammar(use: ToolUse, text: ModelTokenizer) -> str | None:
    functions = [tool.function for tool in use.tools]
    if use.mode == "named":
        return forced_arguments(functions[0])
    if use.mode == "required":
        return forced_calls(functions, parallel=use.is_parallel)
    tag = None if use.parser is None else use.parser.tag
    if use.mode != "auto" or tag is None or not any(function.strict for function in functions):
        return None
    return strict_calls(functions, tag, text.mark_ids(use.marks), parallel=use.is_parallel)
