"""Parse and validate request bodies; errors name the field.

Python's JSON parser accepts more than JSON allows (NaN, Infinity), and some valid JSON could hang
or crash it (deep nesting, huge numbers). Lone surrogates and NUL characters are legal JSON but not
valid text.
"""

import codecs
import contextlib
import gc
import itertools
import json
import math
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails
from quart import request

from headrace.frontend.errors import (
    ApiError,
    BadRequest,
    InvalidBody,
    UnsupportedMediaType,
    shortened,
)
from headrace.frontend.http.sizes import check_depth, check_encoded_size, check_value_count
from headrace.frontend.middleware import request_scope
from headrace.frontend.middleware.ignored_fields import IgnoredFieldLog
from headrace.frontend.process.worker_thread import LARGE_BYTES, run_in_worker_thread
from headrace.frontend.schemas.limits import limit_of
from headrace.frontend.schemas.unknown_fields import (
    MAX_NOTED,
    Path,
    collect_unknown_fields,
    names_of,
)

Model = TypeVar("Model", bound=BaseModel)

# Errors about a value; all others are about the body's shape. The reference distinguishes them by
# the error's type and the form of the field's name.
_VALUE_ERRORS = frozenset(
    {
        "bad_value",
        "greater_than",
        "greater_than_equal",
        "less_than",
        "less_than_equal",
        "too_long",
        "too_short",
        "string_too_long",
        "string_too_short",
    }
)

_IGNORED = IgnoredFieldLog()
# The parts of a location by which pydantic tells the types of a field apart.
_TYPE_NAME = re.compile(r"str|int|float|bool|dict|list|none|constrained-\w+|.*\[.*", re.DOTALL)

_SUSPECT_ESCAPE = re.compile(rb"\\u(?:[dD][89a-fA-F]|0000)")
_INVALID_CHARACTERS = re.compile("[\x00\ud800-\udfff]")


async def read_body(model: type[Model]) -> Model:
    """Return the current request's body as a `model`. Raises ApiError if it is invalid."""
    data = await _body()
    return await run_in_worker_thread(
        lambda: validate(model, parse_object(data)), len(data) > LARGE_BYTES
    )


async def read_body_as(choose: Callable[[dict[str, Any]], type[Model]]) -> Model:
    """Return the current request's body as the model that `choose` returns for it.

    Raises ApiError if it is invalid.
    """
    data = await _body()

    def parse() -> Model:
        parsed = parse_object(data)
        return validate(choose(parsed), parsed)

    return await run_in_worker_thread(parse, len(data) > LARGE_BYTES)


async def _body() -> bytes:
    """Return the current request's body. Raises ApiError if its headers do not declare JSON."""
    if not _is_json(request.mimetype):
        raise InvalidBody("The Content-Type must be application/json.")
    if request.headers.get("Content-Encoding", "identity").strip().lower() not in ("", "identity"):
        raise UnsupportedMediaType("Content-Encoding: bodies must not be compressed.")
    data = await request.get_data(as_text=False)
    return data if isinstance(data, bytes) else data.encode()


def _is_json(mimetype: str) -> bool:
    return mimetype == "application/json" or (
        mimetype.startswith("application/") and mimetype.endswith("+json")
    )


def parse_object(data: bytes) -> dict[str, Any]:
    """Parse a JSON object.

    Raises InvalidBody if the data is not one; BadRequest if a number or a text in it is invalid, or
    if it holds too many values.
    """
    check_encoded_size(data)
    numbers = _Numbers()
    with _collector_paused():
        parsed = _parse(data, numbers)
        check_value_count(parsed)
        check_depth(parsed, data.count(b"[") + data.count(b"{"))
    if numbers.non_finite:
        _reject_if(parsed, _is_non_finite, numbers.reason)
    if _SUSPECT_ESCAPE.search(data):
        _reject_if(parsed, _is_invalid_text, "must not hold NUL characters or lone surrogates")
    return parsed


@contextlib.contextmanager
def _collector_paused() -> Iterator[None]:
    """Pause garbage collection: it would scan millions of new lists again and again."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _parse(data: bytes, numbers: "_Numbers") -> dict[str, Any]:
    try:
        text = data.removeprefix(codecs.BOM_UTF8).decode()
        try:
            parsed = numbers.load(text)
        except json.JSONDecodeError:
            raise
        except ValueError:  # an integer of thousands of digits, which only the second parse finds
            parsed = numbers.load(text, parse_int=numbers.parse_int)
    except UnicodeDecodeError as error:
        raise InvalidBody("The body is not UTF-8.", f"body.{error.start}") from error
    except json.JSONDecodeError as error:
        raise InvalidBody(f"The body is not JSON: {error.msg}.", f"body.{error.pos}") from error
    except RecursionError as error:
        raise InvalidBody("The body is nested too deeply.", "body") from error
    if not isinstance(parsed, dict):
        raise InvalidBody("The body must be a JSON object.", "body")
    return parsed


class _Numbers:
    """Notes whether there was a non-finite number: only then the body is searched for it.

    reason: what is wrong with it.
    """

    def __init__(self) -> None:
        self.non_finite, self.reason = False, "must be a finite number"
        self._count, self._most = 0, limit_of("max_json_values")

    def load(self, text: str, parse_int: Callable[[str], float] | None = None) -> Any:
        """Parse JSON. Raises ValueError if it is invalid, or holds an integer of too many digits
        that `parse_int` does not take."""
        return json.loads(
            text, parse_float=self.parse, parse_constant=self.constant, parse_int=parse_int
        )

    def parse(self, digits: str) -> float:
        self._count += 1
        if self._count > self._most:
            raise InvalidBody(f"The body holds more than {self._most} fractions.", "body")
        number = float(digits)
        self.non_finite |= math.isinf(number)
        return number

    def parse_int(self, digits: str) -> float:
        """Return an integer; one that Python takes too long to read becomes infinite."""
        try:
            return int(digits)
        except ValueError:
            self.non_finite, self.reason = True, "must be a number of fewer digits"
            return math.inf

    def constant(self, name: str) -> float:
        self.non_finite = True
        return float(name)


def _is_non_finite(value: Any) -> bool:
    return type(value) is float and not math.isfinite(value)


def _is_invalid_text(value: Any) -> bool:
    return type(value) is str and _INVALID_CHARACTERS.search(value) is not None


def _reject_if(parsed: dict[str, Any], is_bad: Any, reason: str) -> None:
    for key, value in parsed.items():
        if is_bad(key):
            raise BadRequest(f"The names of fields {reason}.")
        if any(is_bad(leaf) for leaf in _leaves(value)):
            raise BadRequest(f"{shortened(key)}: {reason}.", shortened(key))


def _leaves(value: Any) -> Iterator[Any]:
    """Yield all strings and numbers in a JSON value, keys included, without recursion."""
    pending = [value]
    while pending:
        item = pending.pop()
        if isinstance(item, dict):
            pending.extend(item)
            pending.extend(item.values())
        elif isinstance(item, list):
            if set(map(type, item)) != {int}:  # token ids, as many as there may be
                pending.extend(item)
        else:
            yield item


def validate(model: type[Model], parsed: dict[str, Any], place: str = "body") -> Model:
    """Return a parsed body as a `model`; the current request's response names what was ignored.

    place: of the fields in the HTTP request, as errors name it.
    Raises ApiError, naming the first invalid field; unknown ones are invalid if the operator says
    so.
    """
    with collect_unknown_fields() as unknown:
        try:
            return model.model_validate(parsed)
        except ValidationError as error:
            details = error.errors(include_url=False, include_context=False, include_input=False)
            raise _first_error(details, parsed, place) from error
        except RecursionError as error:
            raise InvalidBody("The body is nested too deeply.", "body") from error
        finally:
            if paths := unknown.paths(parsed):
                _reject_if_strict(paths[0], unknown.are_errors)
                ignore_fields(names_of(paths))


def _reject_if_strict(path: Path, is_error: bool) -> None:
    """Raise InvalidBody if an unknown field of the current request is an error."""
    scope = request_scope.current_or_none()
    if is_error or (scope is not None and scope.strict_fields):
        field = shortened(".".join(map(str, path)))
        raise InvalidBody(f"body.{field}: this field is unknown.", f"body.{field}")


def ignore_parts(names: Sequence[str]) -> None:
    """Ignore parts of the current request that this server has no use for, as it does fields.

    Raises InvalidBody if the operator wants errors instead.
    """
    scope = request_scope.current_or_none()
    if names and scope is not None and scope.strict_fields:
        field = f"body.{shortened(names[0])}"
        raise InvalidBody(f"{field}: this is unknown here.", field)
    ignore_fields(names)


def ignore_fields(names: Sequence[str]) -> None:
    """Name parts of the current request that are ignored, in the log and to the client.

    Of many names only the first are.
    """
    if not names:
        return
    first = list(itertools.islice(dict.fromkeys(names), MAX_NOTED))
    _IGNORED.note(first)
    scope = request_scope.current_or_none()
    if scope is not None:
        scope.ignore_fields(first)


def _first_error(details: list[ErrorDetails], parsed: dict[str, Any], place: str) -> ApiError:
    """Return the ApiError of the first error; errors of shape take precedence over values."""
    shape = [detail for detail in details if detail["type"] not in _VALUE_ERRORS]
    first = (shape or details)[0]
    detail = _inner_error(first, details) or first
    field = shortened(".".join(map(str, _field_path(detail["loc"], parsed))))
    reason = detail["msg"].rstrip(".")
    if detail["type"] not in _VALUE_ERRORS:
        if detail["type"] == "extra_forbidden":
            reason = "this field is unknown"
        where = f"{place}.{field}" if field else place
        return InvalidBody(f"{where}: {reason}.", where)
    return BadRequest(f"{field}: {reason}.", field)


def _inner_error(detail: ErrorDetails, details: list[ErrorDetails]) -> ErrorDetails | None:
    """Return the first error within the one type of a field that its value is of; None if there is
    no such type. detail: what another of the types says, which the value is not of."""
    *field, type_name = detail["loc"] or ("",)
    if not _TYPE_NAME.fullmatch(str(type_name)) or detail["type"] in _VALUE_ERRORS:
        return None
    depth = len(field)
    inner = [
        other
        for other in details
        if [*other["loc"][:depth]] == field
        and (len(other["loc"]) > depth + 1 or other["type"] in _VALUE_ERRORS)
    ]
    types = {other["loc"][depth] for other in inner if len(other["loc"]) > depth}
    return inner[0] if len(types) == 1 else None


def _field_path(loc: Path, parsed: dict[str, Any]) -> Iterator[str | int]:
    """Yield the parts of an error's location that clients know: pydantic adds those of its types,
    where a field may be of several."""
    value: Any = parsed
    for part in loc:
        is_key = isinstance(value, dict) and part in value
        is_position = isinstance(value, list) and isinstance(part, int) and part < len(value)
        value = value[part] if is_key or is_position else None
        if is_key or not (isinstance(part, str) and _TYPE_NAME.fullmatch(part)):
            yield part
