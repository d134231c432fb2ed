"""Render chats so that no message is lost to a template that does not know its role.

Templates differ in the roles that they know and in where they take system messages. A template that
does not know a role raises an error, or leaves the message out. To notice that, messages with an
unusual role or place are rendered once more with marks for contents.
"""

from collections.abc import Sequence
from typing import Any

from headrace.frontend.chat.templates import ChatTemplate
from headrace.frontend.errors import BadRequest

Message = dict[str, Any]

_PROBES: dict[str, list[Message]] = {
    "system": [{"role": "system", "content": "{mark}"}, {"role": "user", "content": "a"}],
    "tool": [
        {"role": "user", "content": "a"},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [
                {
                    "id": "call00000",
                    "type": "function",
                    "function": {"name": "f", "arguments": {}},
                }
            ],
        },
        {"role": "tool", "tool_call_id": "call00000", "name": "f", "content": "{mark}"},
    ],
}
_SHOWN_EVERYWHERE = ("user", "assistant")


def render_all_messages(
    template: ChatTemplate, messages: Sequence[Message], **arguments: Any
) -> str:
    """Return the chat as text, with all of its messages.

    A developer message becomes a system message unless the template names that role; the system
    messages are then one at the beginning. They also are where the template does not take them
    elsewhere, and a template without system messages gets their text in the first user message.
    Raises BadRequest if the template rejects the chat, or leaves a message out.

    arguments: see ChatTemplate.render.
    """
    chat = list(messages)
    if not template.names_developer and any(each["role"] == "developer" for each in chat):
        chat = _merge_system([_as_system(each) for each in chat])
    if _is_usual(template, chat):
        return template.render(chat, **arguments)
    merged = _merge_system(chat)
    attempts = [chat] if merged is chat else [chat, merged]
    error: BadRequest | None = None
    while attempts:
        attempt = attempts.pop(0)
        try:
            text = template.render(attempt, **arguments)
        except BadRequest as raised:
            error = error or raised
            continue
        role = _lost_role(template, attempt, arguments)
        if role is None:
            return text
        error = error or _left_out(role)
        if role == "system" and not attempts:
            attempts += _without_system(attempt)
    assert error is not None
    raise error


def _without_system(chat: list[Message]) -> list[list[Message]]:
    """Return the chat with its system message in the first user message, if that is next to it."""
    if [message["role"] for message in chat[:2]] != ["system", "user"]:
        return []
    content = _joined(chat[:2], like=chat[1]["content"])
    return [[{**chat[1], "content": content}, *chat[2:]]]


def _is_usual(template: ChatTemplate, chat: Sequence[Message]) -> bool:
    """Return whether the template is sure to show all messages, or to raise an error."""
    for position, message in enumerate(chat):
        role = message["role"]
        if role in _SHOWN_EVERYWHERE:
            continue
        has_usual_place = role == "tool" or (role == "system" and position == 0)
        if not has_usual_place or not _shows(template, role):
            return False
    return True


def _shows(template: ChatTemplate, role: str) -> bool:
    """Return whether a template shows a role at its usual place, or raises an error for it."""
    known = template.shown_roles.get(role)
    if known is None:
        probe = _PROBES[role]
        marked = [each for each, message in enumerate(probe) if message["content"] == "{mark}"]
        known = template.shown_roles[role] = not _lost(template, probe, marked, {})
    return known


def _lost_role(
    template: ChatTemplate, chat: Sequence[Message], arguments: dict[str, Any]
) -> str | None:
    """Return the role of a message that the template leaves out; None if it shows all."""
    others = [
        position
        for position, message in enumerate(chat)
        if message["role"] not in _SHOWN_EVERYWHERE
    ]
    lost = _lost(template, chat, others, arguments)
    return chat[lost[0]]["role"] if lost else None


def _lost(
    template: ChatTemplate,
    chat: Sequence[Message],
    positions: Sequence[int],
    arguments: dict[str, Any],
) -> list[int]:
    """Return those of the positions whose contents the template leaves out."""
    marks = {position: f"message{position}mark" for position in positions}
    marked = list(chat)
    for position, mark in list(marks.items()):
        has_parts = isinstance(chat[position]["content"], list)
        content = [{"type": "text", "text": mark}] if has_parts else mark
        if not _text(chat[position]):
            del marks[position]
        marked[position] = {**chat[position], "content": content}
    try:
        text = template.render(
            marked,
            add_generation_prompt=False,
            variables=arguments.get("variables"),
            documents=arguments.get("documents"),
            tools=arguments.get("tools"),
        )
    except BadRequest:  # it expects contents of another form, so this shows nothing
        return []
    return [position for position, mark in marks.items() if mark not in text]


def _left_out(role: str) -> BadRequest:
    return BadRequest(
        f"messages: the chat template of this model shows no messages of the role {role!r}.",
        "messages",
    )


def _as_system(message: Message) -> Message:
    return {**message, "role": "system"} if message["role"] == "developer" else message


def _merge_system(chat: list[Message]) -> list[Message]:
    """Return the chat with its system messages as one at the beginning; itself if it is so."""
    system = [message for message in chat if message["role"] == "system"]
    others = [message for message in chat if message["role"] != "system"]
    if not system or (len(system) == 1 and chat[0] is system[0]):
        return chat
    content = _joined(system, like=system[0]["content"])
    return [{**system[0], "content": content}, *others]


def _joined(messages: Sequence[Message], like: Any) -> Any:
    """Return the contents of messages as one of the form of `like`."""
    text = "\n\n".join(filter(None, map(_text, messages)))
    return [{"type": "text", "text": text}] if isinstance(like, list) else text


def _text(message: Message) -> str:
    content = message["content"]
    if isinstance(content, list):
        return "\n".join(part["text"] for part in content)
    return content or ""
