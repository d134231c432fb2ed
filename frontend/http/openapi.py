"""The OpenAPI description of answers without a model, which quart-schema leaves out."""

from collections.abc import Callable
from typing import Any, TypeVar, cast

from quart import Quart
from quart_schema.openapi import OpenAPIProvider
from werkzeug.routing import Rule

from headrace.frontend.access.description import describe_access

View = TypeVar("View", bound=Callable[..., Any])

_ATTRIBUTE = "headrace_plain_responses"


def document_plain(
    description: str, status: int = 200, content_type: str | None = None
) -> Callable[[View], View]:
    """Describe an answer of a route that has no model. content_type: None: no body."""

    def decorator(view: View) -> View:
        response: dict[str, Any] = {"description": description}
        if content_type is not None:
            kind = "object" if content_type == "application/json" else "string"
            response["content"] = {content_type: {"schema": {"type": kind}}}
        setattr(view, _ATTRIBUTE, {**getattr(view, _ATTRIBUTE, {}), str(status): response})
        return view

    return decorator


class OpenAPI(OpenAPIProvider):
    """An OpenAPI provider that adds the answers that quart-schema leaves out."""

    def build_paths(self, rule: Rule) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the operations of a route with all their answers, and the models that they use."""
        paths, components = super().build_paths(rule)
        view = self._app.view_functions[rule.endpoint]
        plain = getattr(view, _ATTRIBUTE, {})
        for operations in paths.values():
            for operation in operations.values():
                responses = {str(status): value for status, value in operation["responses"].items()}
                for value in responses.values():
                    value["description"] = value["description"] or "The answer."
                operation["responses"] = {**responses, **plain}
                if self._extension.security_schemes is not None:
                    describe_access(cast(Quart, self._app), rule, operation)
        return paths, components
