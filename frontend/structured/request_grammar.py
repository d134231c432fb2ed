"""The grammar that a request asks for."""

from collections.abc import Sequence

from quart import has_request_context, request

from headrace.frontend.context import Context, ServedModel
from headrace.frontend.schemas.generation import GenerationRequest
from headrace.frontend.structured.constraint import Constraint, request_constraint
from headrace.protocol.grammar import Grammar


async def requested_grammar(
    context: Context, model: ServedModel, asked: GenerationRequest, after: Sequence[int] = ()
) -> Grammar | None:
    """What response_format and structured_outputs say; None if anything goes. BadRequest if they
    cannot be followed. after: token ids after which it begins to hold (of a reasoning's end)."""
    constraint = request_constraint(asked.response_format, asked.structured_outputs)
    return None if constraint is None else await compile_constraint(context, model, constraint, after)


async def compile_constraint(
    context: Context, model: ServedModel, constraint: Constraint, after: Sequence[int] = ()
) -> Grammar:
    """The grammar of a constraint, for whoever makes one (tool calls, say). BadRequest, naming its
    field, if it cannot be followed."""
    # What outlives its HTTP request has no client any more.
    client = (request.remote_addr or "") if has_request_context() else ""
    return await context.grammars.compile(str(model.group.text_path), constraint, after, client)
