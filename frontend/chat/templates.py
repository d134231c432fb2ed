"""A model's chat template: Jinja2 in a sandbox.

It has the filters and functions that transformers gives to chat templates.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
from jinja2 import nodes

from headrace.frontend.chat.content_format import expects_parts
from headrace.frontend.chat.template_sandbox import (
    ENVIRONMENT,
    TemplateTimeout,
    render,
)
from headrace.frontend.errors import BadRequest

_NONE = re.compile(r"\bnone\b", re.IGNORECASE)

# Follows the final message while a chat is rendered, so that its end can be found in the result.
# The trailing space shows whether the template has trimmed the message.
_END_SENTINEL = "\ue000HEADRACE-END-OF-FINAL-MESSAGE\ue000 "


class ChatTemplate:
    """A template, compiled once. Raises ValueError if it cannot be compiled.

    special_tokens: the variables bos_token, eos_token and so on.
    expects_parts: whether it expects the content of messages as lists of parts.
    distinguishes_none: whether it distinguishes missing content from empty content.
    names_developer: whether it knows the role "developer".
    names_calls: whether it may show the tool calls of earlier turns.
    shown_roles: whether it shows certain roles, as found out so far (chat.shown_roles).
    is_slow: whether a rendering has once taken long.
    """

    def __init__(self, source: str, special_tokens: Mapping[str, str]) -> None:
        self.source = source
        self.distinguishes_none = distinguishes_none(source)
        self.special_tokens = dict(special_tokens)
        parsed = parse(source)
        self.expects_parts = expects_parts(parsed)
        self.names_developer = any(
            constant.value == "developer" for constant in parsed.find_all(nodes.Const)
        )
        self.names_calls = "tool_calls" in source
        self.shown_roles: dict[str, bool] = {}
        self.is_slow = False
        try:
            self._template = ENVIRONMENT.from_string(parsed)
        except Exception as error:  # such as too many nested blocks for Python
            raise ValueError(f"chat template: {_reason(error)}") from error

    def render(
        self,
        messages: Sequence[dict[str, Any]],
        *,
        add_generation_prompt: bool,
        continue_final_message: bool = False,
        variables: Mapping[str, Any] | None = None,
        documents: Sequence[Mapping[str, str]] | None = None,
        tools: Sequence[dict[str, Any]] | None = None,
    ) -> str:
        """Return the chat as text.

        Raises BadRequest if the template rejects it or fails, TemplateTimeout if it takes too long.

        continue_final_message: end the text where the final message ends, so that the model
            continues it.
        variables: further variables from the request.
        tools: the tools that the model may call.
        """
        prepared = list(messages)
        if continue_final_message:
            final = prepared[-1]
            prepared[-1] = {**final, "content": _with_sentinel(final.get("content"))}
        values: dict[str, Any] = {**(variables or {}), **self.special_tokens}
        values.update(
            messages=prepared,
            tools=tools,
            documents=documents,
            add_generation_prompt=add_generation_prompt,
        )
        text = self._render(values)
        return _cut_at_sentinel(text) if continue_final_message else text

    def _render(self, values: dict[str, Any]) -> str:
        try:
            return render(self._template, values)
        except TemplateTimeout:
            raise
        except jinja2.TemplateError as error:
            raise BadRequest(f"The chat template rejects these messages: {error}") from error
        except Exception as error:  # a model's template may fail in any way on unforeseen messages
            raise BadRequest("The chat template cannot render these messages.") from error


def distinguishes_none(source: str) -> bool:
    """Return whether a template distinguishes missing content from empty content."""
    return _NONE.search(source) is not None


def parse(source: str) -> nodes.Template:
    """Parse a template without compiling or evaluating it.

    Raises ValueError if its syntax is invalid.
    """
    try:
        return ENVIRONMENT.parse(source)
    except jinja2.TemplateSyntaxError as error:
        raise ValueError(f"chat template, line {error.lineno}: {error.message}") from error
    except RecursionError as error:
        raise ValueError("chat template: it is nested too deeply") from error


def _reason(error: Exception) -> str:
    if isinstance(error, jinja2.TemplateSyntaxError):
        return f"line {error.lineno}: {error.message}"
    return "it is nested too deeply, or too long"


def _with_sentinel(content: str | list[dict[str, str]] | None) -> str | list[dict[str, str]]:
    if not isinstance(content, list):
        return (content or "") + _END_SENTINEL
    *before, last = content or [{"type": "text", "text": ""}]
    return [*before, {**last, "text": last["text"] + _END_SENTINEL}]


def _cut_at_sentinel(text: str) -> str:
    end = text.rfind(_END_SENTINEL.rstrip())
    if end < 0:
        raise BadRequest(
            "continue_final_message: the chat template does not show the final message.",
            "continue_final_message",
        )
    continued = text[:end]
    return continued if text.startswith(_END_SENTINEL, end) else continued.rstrip()
