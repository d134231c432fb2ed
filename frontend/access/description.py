"""Tell readers of the OpenAPI description which keys a route wants."""

from typing import Any

from quart import Quart
from werkzeug.routing import Rule

from headrace.frontend.access.required_access import Access, required_now

SCHEMES = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "x_api_key": {"type": "apiKey", "name": "x-api-key", "in_": "header"},
}
SECURITY: list[dict[str, list[str]]] = [{name: []} for name in SCHEMES]
_CONTENT = {"application/json": {"schema": {"type": "object"}}}


def describe_access(app: Quart, rule: Rule, operation: dict[str, Any]) -> None:
    """Add to an operation what it answers to clients without access."""
    required = required_now(app, rule)
    if required is Access.PUBLIC:
        operation["security"] = [{}, *SECURITY]
    responses = operation["responses"]
    responses.setdefault("401", {"description": "No valid API key.", "content": _CONTENT})
    if required is Access.ADMIN:
        text = "The key is not an admin key."
        responses.setdefault("403", {"description": text, "content": _CONTENT})
