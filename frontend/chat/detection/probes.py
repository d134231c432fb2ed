"""Render chats that show how a template writes prompts, tools and calls."""

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import takewhile
from typing import Any, NamedTuple

from headrace.frontend.chat.template_sandbox import TemplateTimeout
from headrace.frontend.chat.templates import ChatTemplate
from headrace.frontend.errors import BadRequest

# No template has these words of its own.
NAME = "zq_lookup"
ARGUMENTS: Mapping[str, Any] = {"zq_city": "Ulm or Zug", "zq_days": 3}
# Some templates write texts without quotes; the format shows all the same.
_FEW_ARGUMENTS: Mapping[str, Any] = {"zq_days": 3}
_QUESTION, _ANSWER, _RESULT = "zq question", "zq answer", "zq result"
TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": NAME,
        "description": "zq description",
        "parameters": {
            "type": "object",
            "properties": {
                "zq_city": {"type": "string", "description": "zq city"},
                "zq_days": {"type": "integer", "description": "zq days"},
            },
            "required": ["zq_city", "zq_days"],
        },
    },
}
# Mistral's templates require nine characters; Kimi's write the id instead of the name.
_IDS = ("zqcall123", f"functions.{NAME}:0")


def prompt(
    template: ChatTemplate,
    variables: Mapping[str, Any] | None = None,
    tools: Sequence[dict[str, Any]] | None = None,
) -> str:
    """Return the prompt of a question; "" if the template rejects it."""
    return _render(template, [_user()], variables, tools, for_answer=True)


class WrittenCall(NamedTuple):
    """What a template writes for a call; it may go on with the beginning of the next message."""

    text: str
    arguments: Mapping[str, Any]


def written_calls(template: ChatTemplate) -> Iterator[WrittenCall]:
    """Yield what a template writes for an answer with a call, in several ways to ask for it."""
    seen = set[str]()
    for arguments in (ARGUMENTS, _FEW_ARGUMENTS):
        for call_id in _IDS:
            for given in (dict(arguments), json.dumps(arguments)):
                for content in ("", None):
                    for with_result in (False, True):
                        text = _written_call(template, call_id, given, content, with_result)
                        if NAME in text and text not in seen:
                            seen.add(text)
                            yield WrittenCall(text, arguments)


def end_of_answer(template: ChatTemplate) -> str:
    """Return what a template writes after the last answer, without white space around it."""
    messages = [_user(), {"role": "assistant", "content": _ANSWER}]
    return _render(template, messages, None, None, for_answer=False).partition(_ANSWER)[2].strip()


def written_reasoning(template: ChatTemplate, thought: str) -> str:
    """Return a chat whose last answer has reasoning; "" if the template rejects it."""
    answer = {"role": "assistant", "content": _ANSWER}
    answer["reasoning_content"] = answer["reasoning"] = answer["thinking"] = thought
    return _render(template, [_user(), answer], None, None, for_answer=False)


def _written_call(
    template: ChatTemplate,
    call_id: str,
    arguments: object,
    content: str | None,
    with_result: bool,
) -> str:
    call = {
        "id": call_id,
        "type": "function",
        "function": {"name": NAME, "arguments": arguments},
    }
    messages = [_user(), {"role": "assistant", "content": content, "tool_calls": [call]}]
    if with_result:
        result = {"role": "tool", "content": _RESULT, "tool_call_id": call_id, "name": NAME}
        messages.append(result)
    whole = _render(template, messages, None, [TOOL], for_answer=False)
    before = _render(template, [_user()], None, [TOOL], for_answer=True)
    same = takewhile(lambda pair: pair[0] == pair[1], zip(whole, before, strict=False))
    common = whole[: sum(1 for _ in same)]
    if common != before:  # it may end within a token, such as the "<" of another
        begin = max(map(common.rfind, "<["))
        if begin >= 0 and not {">", "]"} & set(common[begin:]):
            common = common[:begin]
    rest = whole[len(common) :]
    end = rest.find(_RESULT)
    return rest if end < 0 else rest[:end]


def _user() -> dict[str, Any]:
    return {"role": "user", "content": _QUESTION}


def _render(
    template: ChatTemplate,
    messages: Sequence[dict[str, Any]],
    variables: Mapping[str, Any] | None,
    tools: Sequence[dict[str, Any]] | None,
    *,
    for_answer: bool,
) -> str:
    if template.expects_parts:
        messages = [_in_parts(message) for message in messages]
    try:
        return template.render(
            messages, add_generation_prompt=for_answer, variables=variables, tools=tools
        )
    except (BadRequest, TemplateTimeout):
        return ""


def _in_parts(message: dict[str, Any]) -> dict[str, Any]:
    content = message["content"]
    if not content:
        return message
    return {**message, "content": [{"type": "text", "text": content}]}
