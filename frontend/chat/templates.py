"""A model's chat template: Jinja2 in a sandbox, with the filters and functions that templates are
written for (those of transformers)."""

import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from headrace.frontend.chat.content_format import expects_parts
from headrace.frontend.errors import BadRequest

_NONE = re.compile(r"\bnone\b", re.IGNORECASE)

# Stands after the final message while a chat is rendered, so that its end can be found again. The
# space tells whether the template has trimmed the message.
_END_MARK = "\ue000HEADRACE-END-OF-FINAL-MESSAGE\ue000 "


class ChatTemplate:
    """A template, compiled once. Raises ValueError if it cannot be.

    special_tokens: the variables bos_token, eos_token and so on.
    expects_parts: whether it expects the content of messages as lists of parts.
    knows_none: whether it tells an absent content from an empty one.
    """

    def __init__(self, source: str, special_tokens: Mapping[str, str]) -> None:
        self.source = source
        self.knows_none = knows_none(source)
        self.special_tokens = dict(special_tokens)
        parsed = parse(source)
        self.expects_parts = expects_parts(parsed)
        self._template = _ENVIRONMENT.from_string(parsed)

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
        """The chat as one text. BadRequest if the template refuses the messages, or fails on them.

        continue_final_message: the text ends where the final message does, so that the model goes
        on with it. variables: further ones, from the request. tools: that the model may call.
        """
        chat = list(messages)
        if continue_final_message:
            chat[-1] = {**chat[-1], "content": _marked(chat[-1].get("content"))}
        values: dict[str, Any] = {**(variables or {}), **self.special_tokens}
        values.update(
            messages=chat,
            tools=tools,
            documents=documents,
            add_generation_prompt=add_generation_prompt,
        )
        text = self._render(values)
        return _cut_at_mark(text) if continue_final_message else text

    def _render(self, values: dict[str, Any]) -> str:
        try:
            return self._template.render(values)
        except jinja2.TemplateError as error:
            raise BadRequest(f"The chat template refuses these messages: {error}") from error
        except Exception as error:  # whatever a model's template does with unforeseen messages
            raise BadRequest("The chat template cannot render these messages.") from error


def knows_none(source: str) -> bool:
    """Whether a template tells an absent content from an empty one."""
    return _NONE.search(source) is not None


def parse(source: str) -> nodes.Template:
    """A template's syntax; it is not compiled, and nothing of it is evaluated.
    Raises ValueError if it has none."""
    try:
        return _ENVIRONMENT.parse(source)
    except jinja2.TemplateSyntaxError as error:
        raise ValueError(f"chat template, line {error.lineno}: {error.message}") from error


def _marked(content: str | list[dict[str, str]] | None) -> str | list[dict[str, str]]:
    if not isinstance(content, list):
        return (content or "") + _END_MARK
    *before, last = content or [{"type": "text", "text": ""}]
    return [*before, {**last, "text": last["text"] + _END_MARK}]


def _cut_at_mark(text: str) -> str:
    end = text.rfind(_END_MARK.rstrip())
    if end < 0:
        raise BadRequest(
            "continue_final_message: the chat template does not show the final message.",
            "continue_final_message",
        )
    kept = text[:end]
    return kept if text.startswith(_END_MARK, end) else kept.rstrip()


class _GenerationTag(Extension):
    """`{% generation %}` marks the assistant's words for training; here it has no effect."""

    tags = {"generation"}  # noqa: RUF012 (an attribute of jinja2's)

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _strftime_now(form: str) -> str:
    return datetime.now().strftime(form)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Unlike Jinja2's own filter, escapes nothing for HTML."""
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[_GenerationTag, "jinja2.ext.loopcontrols"],
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment


_ENVIRONMENT = _environment()
