"""The API's description where quart-schema's own leaves gaps: answers that are no model's."""

from collections.abc import Callable
from typing import Any, TypeVar

from quart_schema.openapi import OpenAPIProvider
from werkzeug.routing import Rule

View = TypeVar("View", bound=Callable[..., Any])

_ATTRIBUTE = "headrace_plain_responses"


def document_plain(
    description: str, status: int = 200, content_type: str | None = None
) -> Callable[[View], View]:
    """Describe an answer of a route that no model describes. content_type: None for no body."""

    def decorator(view: View) -> View:
        response: dict[str, Any] = {"description": description}
        if content_type is not None:
            kind = "object" if content_type == "application/json" else "string"
            response["content"] = {content_type: {"schema": {"type": kind}}}
        setattr(view, _ATTRIBUTE, {**getattr(view, _ATTRIBUTE, {}), str(status): response})
        return view

    return decorator


class OpenAPI(OpenAPIProvider):
    """quart-schema's description, its gaps filled."""

    def build_paths(self, rule: Rule) -> tuple[dict[str, Any], dict[str, Any]]:
        """The operations of a route, each with all its answers, and the models that they use."""
        paths, components = super().build_paths(rule)
        view = self._app.view_functions[rule.endpoint]
        plain = getattr(view, _ATTRIBUTE, {})
        for operations in paths.values():
            for operation in operations.values():
                responses = {str(status): told for status, told in operation["responses"].items()}
                for told in responses.values():
                    told["description"] = told["description"] or "The answer."
                operation["responses"] = {**responses, **plain}
        return paths, components
