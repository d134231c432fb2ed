"""Derive the constraint on a chat's output from the request's tools and formats."""

from headrace.frontend.chat.tools.grammars import forced_arguments, forced_calls, strict_calls
from headrace.frontend.chat.tools.tool_use import ToolUse
from headrace.frontend.errors import BadRequest
from headrace.frontend.schemas.generation import GenerationRequest
from headrace.frontend.structured.constraint import Constraint, request_constraint, tools_constraint
from headrace.frontend.text.model_tokenizer import ModelTokenizer


def chat_constraint(
    request: GenerationRequest, tools: ToolUse, tokenizer: ModelTokenizer
) -> Constraint | None:
    """Return what the output of a chat must conform to; None if it is free.

    A required tool call takes precedence over response_format, which is for answers without calls.
    Raises BadRequest if the fields exclude each other.
    """
    is_forced = tools.mode in ("required", "named")
    if is_forced and request.structured_outputs is not None:
        raise BadRequest(
            "structured_outputs cannot be used where tool_choice requires a call.",
            "structured_outputs",
        )
    requested = (
        None
        if is_forced
        else request_constraint(request.response_format, request.structured_outputs)
    )
    if requested is not None:
        return requested
    try:
        grammar = _grammar(tools, tokenizer)
    except RecursionError as error:
        raise BadRequest("tools: a schema is nested too deeply.", "tools") from error
    if grammar is not None and request.use_beam_search:
        raise BadRequest(
            "use_beam_search cannot be combined with a grammar for tool calls.", "use_beam_search"
        )
    return None if grammar is None else tools_constraint(grammar)


def _grammar(tools: ToolUse, tokenizer: ModelTokenizer) -> str | None:
    functions = [tool.function for tool in tools.callable_tools]
    if tools.mode == "named":
        return forced_arguments(functions[0])
    if tools.mode == "required":
        return forced_calls(functions, parallel=tools.is_parallel)
    is_held = tools.holds_names or any(function.strict for function in functions)
    if tools.mode != "auto" or tools.parser is None or not (functions and is_held):
        return None
    token_ids = tokenizer.added_token_ids(tools.delimiters)
    syntax = tools.parser.call_syntax_of(token_ids)
    if syntax is None:
        return None
    return strict_calls(functions, syntax, token_ids, parallel=tools.is_parallel)
