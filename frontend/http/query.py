"""Read the parameters of a URL's query; errors name them."""

from typing import Any

from quart import request

from headrace.frontend.errors import BadRequest, shortened

_BOOLEANS = {"true": True, "1": True, "false": False, "0": False}


def query_boolean(name: str) -> bool:
    """Return a parameter that is false by default. Raises BadRequest if it is invalid."""
    text = request.args.get(name, "false")
    value = _BOOLEANS.get(text.lower())
    if value is None:
        raise BadRequest(f"{name}: must be true or false, not {shortened(text)!r}.", name)
    return value


def query_number(name: str, default: int, lowest: int, highest: int) -> int:
    """Return a whole number of the current request's query. Raises BadRequest if it is invalid."""
    text: Any = request.args.get(name)
    if text is None:
        return default
    number = int(text) if text.isascii() and text.isdigit() and len(text) <= 18 else -1
    if not lowest <= number <= highest:
        raise BadRequest(f"{name}: must be an integer from {lowest} to {highest}.", name)
    return number


def query_choice(name: str, default: str, *others: str) -> str:
    """Return one of some words of the query. Raises BadRequest if it is another."""
    text: str = request.args.get(name, default)
    if text not in (default, *others):
        raise BadRequest(f"{name}: must be {' or '.join((default, *others))}.", name)
    return text
