"""Compile the grammar that a request asks for."""

from collections.abc import Sequence

from quart import has_request_context, request

from headrace.frontend.context import Context, ServedModel
from headrace.frontend.schemas.generation import GenerationRequest
from headrace.frontend.structured.constraint import Constraint, request_constraint
from headrace.protocol.grammar import Grammar


async def requested_grammar(
    context: Context,
    model: ServedModel,
    generation_request: GenerationRequest,
    after: Sequence[str] = (),
) -> Grammar | None:
    """Return the grammar of response_format and structured_outputs; None if the output is free.

    after: texts after any of which it applies, such as the end of reasoning.
    Raises BadRequest if it cannot be compiled.
    """
    constraint = request_constraint(
        generation_request.response_format, generation_request.structured_outputs
    )
    return (
        None if constraint is None else await compile_constraint(context, model, constraint, after)
    )


async def compile_constraint(
    context: Context, model: ServedModel, constraint: Constraint, after: Sequence[str] = ()
) -> Grammar:
    """Return the grammar of any constraint, such as that of tool calls.

    Raises BadRequest, naming the constraint's field, if it cannot be compiled.
    """
    client = _client(context)
    return await context.grammars.compile(str(model.group.text_path), constraint, after, client)


def _client(context: Context) -> str:
    """Return whose turn among the checkers it is: a key's tenant's, else an address's."""
    if context.principal.key is not None:
        return f"tenant {context.principal.tenant}"
    # Work that outlives its HTTP request has no client.
    return (request.remote_addr or "") if has_request_context() else ""
