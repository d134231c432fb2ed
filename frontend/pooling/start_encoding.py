"""Submit the texts of a request to the pool, as one piece of work of its client."""

from collections.abc import Sequence

from headrace.frontend.context import Context, ServedModel
from headrace.frontend.errors import BadRequest
from headrace.frontend.generation.ownership import (
    new_request_id,
    own,
    owner_of,
    priority_of,
    raise_interruption,
)
from headrace.frontend.generation.request_log import RequestLog
from headrace.frontend.generation.token_ledger import reserve_tokens
from headrace.frontend.metrics import LongestOutput
from headrace.frontend.middleware.deadline import current_deadline
from headrace.frontend.pooling.encoding import Encoding
from headrace.frontend.pooling.texts import EncodeInput, pooling_of
from headrace.frontend.rate_limits.rate_limits import Demand, Reservation
from headrace.frontend.schemas.limits import limit_of
from headrace.frontend.schemas.pooling.fields import PoolingFields
from headrace.protocol.pooling import NumberFormat, PoolingTask
from headrace.protocol.to_worker import Encode


def start_encoding(
    context: Context,
    model: ServedModel,
    request: PoolingFields,
    task: PoolingTask,
    inputs: Sequence[EncodeInput],
    *,
    dimensions: int | None = None,
    number_format: NumberFormat = "float32",
) -> Encoding:
    """Submit texts; the HTTP request owns them, and they end with it.

    Raises RateLimited if the client's key has reached a limit; BadRequest if the answer would hold
    too many numbers.
    """
    raise_interruption()
    info = pooling_of(model)
    if dimensions is None and task == "embed":
        dimensions = info.default_dimensions
    _check_size(task, inputs, dimensions or info.size)
    owner = owner_of(context.principal, request.user)
    messages = _messages(model, request, task, inputs, dimensions, number_format, owner)
    tokens = [len(each.token_ids) for each in inputs]
    # Before the texts are submitted: what a limit refuses must not run.
    reservation = _reserve(context, tokens, inputs[-1].field, started := [])
    name = model.group.served_names[0]
    encoding = Encoding(
        [context.pool.encode(model.group.name, message) for message in messages],
        [
            context.metrics.request(
                name, count, 1, None, LongestOutput(1), owner[0],
                named_by_client=context.principal.key is None,
            )
            for count in tokens
        ],
        tokens,
        [each.field for each in inputs],
        current_deadline(context.config.request_timeout_s),
    )  # fmt: skip
    started.append(encoding)
    own(context, model, encoding, reservation)
    if context.config.enable_log_requests:
        RequestLog(context.config, inputs, messages_to_log(messages))
    return encoding


def _messages(
    model: ServedModel,
    request: PoolingFields,
    task: PoolingTask,
    inputs: Sequence[EncodeInput],
    dimensions: int | None,
    number_format: NumberFormat,
    owner: tuple[str, str],
) -> list[Encode]:
    """Return what workers get of each text. owner: the tenant and the user."""
    own_activates = pooling_of(model).activates
    return [
        Encode(
            request_id=new_request_id(),
            prompt_token_ids=each.token_ids,
            task=task,
            token_type_ids=each.token_type_ids,
            prompt_length=each.prompt_length,
            compared_with=each.compared_with,
            route=each.route,
            dimensions=dimensions,
            activates=own_activates if request.use_activation is None else request.use_activation,
            number_format=number_format,
            priority=priority_of(request.priority),
            adapter=model.adapter,
            tenant=owner[0],
            user=owner[1],
        )
        for each in inputs
    ]


def _check_size(task: PoolingTask, inputs: Sequence[EncodeInput], width: int) -> None:
    """Raise BadRequest if numbers of tokens are more than a frontend should hold."""
    most, field = limit_of("max_numbers"), inputs[-1].field
    if not task.startswith("token_") or inputs[-1].compared_with:
        return
    count = width * sum(len(each.token_ids) for each in inputs)
    if count > most:
        raise BadRequest(
            f"{field}: {width} numbers for each token are {count}, at most {most} are "
            "possible: send fewer texts.",
            field,
        )


def _reserve(
    context: Context, tokens: Sequence[int], field: str, started: Sequence[Encoding]
) -> Reservation | None:
    """Reserve the tokens of texts within the limit of the client's key; None if it has none.

    started: holds the texts on their way, once they are.
    """
    demand = Demand(sum(tokens), choices=0, output_tokens=0, is_bounded=False, field=field)

    def used(at_end: bool) -> int | None:
        return started[0].used_tokens(at_end) if started else (0 if at_end else None)

    return reserve_tokens(context, demand, used)


def messages_to_log(messages: Sequence[Encode]) -> list[str]:
    """Return what the log tells of requests besides their texts."""
    return [f"{each.task}, dimensions: {each.dimensions}" for each in messages]


def check_dimensions(
    model: ServedModel,
    dimensions: int | None,
    field: str = "dimensions",
    param: str | None = None,
) -> None:
    """Raise BadRequest if a model's embeddings cannot be cut to so many numbers.

    field: that holds them. param: of the error: the reference names none on its older routes.
    """
    info = pooling_of(model)
    if dimensions is None:
        return
    if info.dimensions is None:
        raise BadRequest(f"{field}: this model's embeddings cannot be cut; leave it out.", param)
    if not 1 <= dimensions <= info.size:
        raise BadRequest(f"{field}: must be from 1 to {info.size}.", param)
    if info.dimensions and dimensions not in info.dimensions:
        known = ", ".join(map(str, info.dimensions))
        raise BadRequest(f"{field}: must be one of {known}.", param)
