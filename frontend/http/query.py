"""Read the parameters of a URL's query; errors name them."""

import re
from typing import Any

from quart import request

from headrace.frontend.errors import BadRequest, InvalidBody, shortened

_INTEGER = re.compile("-?[0-9]+")
_BOOLEANS = {"true": True, "1": True, "false": False, "0": False}


def query_boolean(name: str) -> bool:
    """Return a parameter that is false by default. Raises InvalidBody if it is no boolean."""
    text = request.args.get(name, "false")
    value = _BOOLEANS.get(text.lower())
    if value is None:
        raise _malformed(name, f"must be true or false, not {shortened(text)!r}")
    return value


def query_number(name: str, default: int, lowest: int, highest: int) -> int:
    """Return a whole number of the current request's query.

    Raises InvalidBody if it is no number, BadRequest if it is out of range.
    """
    text: Any = request.args.get(name)
    if text is None:
        return default
    if not _INTEGER.fullmatch(text):
        raise _malformed(name, f"must be an integer, not {shortened(text)!r}")
    number = int(text) if len(text) <= 18 else highest + 1
    if not lowest <= number <= highest:
        raise BadRequest(f"{name}: must be an integer from {lowest} to {highest}.", name)
    return number


def query_choice(name: str, default: str, *others: str) -> str:
    """Return one of some words of the query. Raises InvalidBody if it is another."""
    text: str = request.args.get(name, default)
    if text not in (default, *others):
        raise _malformed(name, f"must be {' or '.join((default, *others))}")
    return text


def _malformed(name: str, reason: str) -> InvalidBody:
    """Return the error for a parameter that is not of its type, as `read_query` has it."""
    return InvalidBody(f"query.{name}: {reason}.", f"query.{name}")
