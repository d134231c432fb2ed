"""Parts that the routes with admin calls share: the query, the target, and the results."""

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
    RequestTimeout,
    Unavailable,
)
from headrace.frontend.http.parsing import validate
from headrace.frontend.middleware.errors import json_response
from headrace.frontend.redaction import without_internals
from headrace.frontend.schemas.admin import ModelQuery, PoolQuery
from headrace.protocol.call_results import Result
from headrace.protocol.calls import (
    ABSENT,
    CONFLICT,
    FAILED,
    INVALID,
    MISSING,
    OVERTAKEN,
    TIMEOUT,
    UNFIT,
    CallTarget,
    ErrorKind,
)
from headrace.protocol.to_frontend import CallAnswer, PoolResult

R = TypeVar("R", bound=Result)
Query = TypeVar("Query", bound=ModelQuery)


def read_query(model: type[Query]) -> Query:
    """Return the request's query; unknown parameters are ignored, and a bare ?verbose means true.

    Raises BadRequest, naming the parameter, if one is invalid.
    """
    values: dict[str, Any] = {}
    for key in request.args:
        field = model.model_fields.get(key)
        if field is None:
            continue
        texts = request.args.getlist(key)
        is_list = str(field.annotation).startswith("list")
        values[key] = texts if is_list else texts[-1]
        if field.annotation is bool and values[key] == "":
            values[key] = True
    return validate(model, values, "query")


def target_of(context: Context, query: ModelQuery) -> CallTarget:
    """Return the target that a query names. Raises NotFound for a model that is not served."""
    group = "" if query.model is None else context.model(query.model).group.name
    worker = query.worker if isinstance(query, PoolQuery) else None
    return CallTarget(group, worker or "")


_ERRORS: dict[ErrorKind, type[ApiError]] = {
    ABSENT: Unavailable,
    TIMEOUT: RequestTimeout,
    CONFLICT: Conflict,
    FAILED: PoolFailed,
    INVALID: BadRequest,
    MISSING: NotFound,
    UNFIT: BadRequest,
}


def check_result(result: PoolResult, about: str = "", param: str | None = None) -> PoolResult:
    """Return a result. Raises the ApiError of its kind if the call has failed.

    about: the subject of the error's text. param: the field at fault.
    """
    if result.error:
        text = f"{about} {without_internals(result.error, is_ours=True)}".strip()
        headers = {"Retry-After": "1"} if result.kind == ABSENT else None
        raise _ERRORS[result.kind](f"{text[0].upper()}{text[1:]}.", param, headers)
    return result


def check_answers(result: PoolResult) -> Sequence[CallAnswer]:
    """Return the answers of a call.

    Raises Unavailable without workers, Conflict if another call has undone it meanwhile, PoolFailed
    on failure.
    """
    check_result(result)
    failed = [each for each in result.answers if each.error]
    if failed:
        is_undone = all(each.error == OVERTAKEN for each in failed)
        text = without_internals(
            "; ".join(f"{each.process_id}: {each.error}" for each in failed), is_ours=True
        )
        raise (Conflict if is_undone else PoolFailed)(text)
    return result.answers


def empty_response(answers: Sequence[CallAnswer], query: PoolQuery) -> Response:
    """Return an empty answer; with ?verbose a report of each worker."""
    if not query.verbose:
        empty = Response(b"", 200)
        del empty.headers["Content-Type"]
        return empty
    return json_response({"workers": worker_reports(answers)})


def report_response(
    body: dict[str, Any], answers: Sequence[CallAnswer], query: PoolQuery
) -> Response:
    """Return a JSON answer; with ?verbose it includes a report of each worker."""
    if query.verbose:
        body = body | {"workers": worker_reports(answers)}
    return json_response(body)


def worker_reports(answers: Sequence[CallAnswer]) -> list[dict[str, Any]]:
    """Return the outcome of a call at each worker, as JSON."""
    return [
        {
            "name": each.process_id,
            "error": without_internals(each.error, is_ours=True),
            "seconds": round(each.seconds, 3),
            "value": json_value(each),
        }
        for each in answers
    ]


def json_value(answer: CallAnswer) -> Any:
    """Return what a process has answered, as JSON shows it; None if it has failed."""
    return None if answer.value is None else answer.value.to_json()


def value_of(answer: CallAnswer, kind: type[R]) -> R:
    """Return what a process has answered. Raises PoolFailed if it is not of this class."""
    if not isinstance(answer.value, kind):
        raise PoolFailed(f"{answer.process_id}: unexpected answer.")
    return answer.value
