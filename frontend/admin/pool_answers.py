"""What routes share that act on the whole pool: their query, and the answers of the workers."""

import json
from collections.abc import Sequence
from typing import Any, TypeVar

from quart import Response, request

from headrace.frontend.context import Context
from headrace.frontend.errors import (
    ApiError,
    BadRequest,
    Conflict,
    NotFound,
    PoolFailed,
    TookTooLong,
    Unavailable,
)
from headrace.frontend.http.parsing import validate
from headrace.frontend.middleware.errors import json_response
from headrace.frontend.pool.interface import Scope
from headrace.frontend.schemas.admin import ModelQuery, PoolQuery
from headrace.protocol.to_frontend import (
    ABSENT,
    CONFLICT,
    FAILED,
    INVALID,
    MISSING,
    TIMEOUT,
    UNFIT,
    PoolResult,
    WorkerAnswer,
)

Query = TypeVar("Query", bound=ModelQuery)


def read_query(model: type[Query]) -> Query:
    """The request's query; BadRequest that names the parameter. A bare ?verbose says yes, as any
    switch; what nobody knows is ignored, as everywhere."""
    values: dict[str, Any] = {}
    for key in request.args:
        field = model.model_fields.get(key)
        if field is None:
            continue
        given = request.args.getlist(key)
        is_list = str(field.annotation).startswith("list")
        values[key] = given if is_list else given[-1]
        if field.annotation is bool and values[key] == "":
            values[key] = True
    return validate(model, values)


def scope_of(context: Context, query: ModelQuery) -> Scope:
    """NotFound for a model that is not served."""
    group = "" if query.model is None else context.model(query.model).group.name
    worker = query.worker if isinstance(query, PoolQuery) else None
    return Scope(group, worker or "")


_ERRORS: dict[str, type[ApiError]] = {
    ABSENT: Unavailable,
    TIMEOUT: TookTooLong,
    CONFLICT: Conflict,
    FAILED: PoolFailed,
    INVALID: BadRequest,
    MISSING: NotFound,
    UNFIT: BadRequest,
}


def check_done(result: PoolResult, about: str = "", param: str | None = None) -> PoolResult:
    """The result itself, if it is one; ApiError by its kind if it could not be done.

    about: what the error is said of. param: the field that is at fault.
    """
    if result.error:
        text = f"{about} {result.error}".strip()
        raise _ERRORS.get(result.kind, PoolFailed)(f"{text[0].upper()}{text[1:]}.", param)
    return result


def check(result: PoolResult) -> Sequence[WorkerAnswer]:
    """The workers' answers; Unavailable if there are no workers, PoolFailed if one has failed."""
    check_done(result)
    failed = [f"{each.worker_id}: {each.error}" for each in result.answers if each.error]
    if failed:
        raise PoolFailed("; ".join(failed))
    return result.answers


def report(answers: Sequence[WorkerAnswer], query: PoolQuery) -> Response:
    """An empty answer, or with ?verbose what came of it at each worker."""
    if not query.verbose:
        empty = Response(b"", 200)
        del empty.headers["Content-Type"]
        return empty
    return json_response({"workers": worker_reports(answers)})


def answer(body: dict[str, Any], answers: Sequence[WorkerAnswer], query: PoolQuery) -> Response:
    """A body, and with ?verbose in it what came of it at each worker."""
    if query.verbose:
        body = body | {"workers": worker_reports(answers)}
    return json_response(body)


def worker_reports(answers: Sequence[WorkerAnswer]) -> list[dict[str, Any]]:
    """What came of a call at each worker."""
    return [
        {
            "name": each.worker_id,
            "error": each.error,
            "seconds": round(each.seconds, 3),
            "value": value_of(each),
        }
        for each in answers
    ]


def value_of(answer: WorkerAnswer) -> Any:
    """What a worker has answered; None if it has failed."""
    return json.loads(answer.value or "null")
