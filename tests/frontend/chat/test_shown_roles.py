"""No message is lost to a template that does not know its role."""

from typing import Any

import pytest
from quart.typing import TestClientProtocol as Client

from headrace.frontend.chat.shown_roles import render_all_messages
from headrace.frontend.chat.templates import ChatTemplate
from headrace.frontend.errors import BadRequest
from headrace.frontend.text.model_tokenizer import ModelTokenizer
from headrace.protocol.config import ServingOptions
from tests.frontend.conftest import MAKE_APP
from tests.frontend.fake_pool import FakePool
from tests.frontend.text.tokenizers_for_tests import CHAT_TEMPLATE

ANY_ROLE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}"
FOUR_ROLES = (
    "{% for m in messages %}{% if m.role in ['system', 'user', 'assistant', 'tool'] %}"
    "<{{ m.role }}>{{ m.content }}\n{% endif %}{% endfor %}"
)
STRICT = (
    "{% for m in messages %}{% if m.role == 'system' and not loop.first %}"
    "{{ raise_exception('System message must be at the beginning') }}"
    "{% elif m.role not in ['system', 'user', 'assistant', 'tool'] %}"
    "{{ raise_exception('Unexpected role ' + m.role) }}{% endif %}"
    "<{{ m.role }}>{{ m.content }}\n{% endfor %}"
)
FIRST_ONLY = (
    "{% if messages[0].role == 'system' %}<system>{{ messages[0].content }}\n{% endif %}"
    "{% for m in messages %}{% if m.role in ['user', 'assistant'] %}"
    "<{{ m.role }}>{{ m.content }}\n{% endif %}{% endfor %}"
)
LAST_SYSTEM = (
    "{% set ns = namespace(system='') %}{% for m in messages if m.role == 'system' %}"
    "{% set ns.system = m.content %}{% endfor %}<system>{{ ns.system }}\n"
    "{% for m in messages if m.role != 'system' %}<{{ m.role }}>{{ m.content }}\n{% endfor %}"
)
NO_SYSTEM = (
    "{% for m in messages if m.role in ['user', 'assistant', 'tool'] %}"
    "<{{ m.role }}>{{ m.content }}\n{% endfor %}"
)
REJECTS_SYSTEM = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
)
REJECTS_SYSTEM += FOUR_ROLES
NAMES_DEVELOPER = (
    "{% for m in messages %}{% if m.role == 'developer' %}<|dev|>{{ m.content }}\n{% else %}"
    "<{{ m.role }}>{{ m.content }}\n{% endif %}{% endfor %}"
)
PARTS = (
    "{% for m in messages %}{% if m.role == 'system' and not loop.first %}"
    "{{ raise_exception('System message must be at the beginning') }}{% endif %}<{{ m.role }}>"
    "{% for part in m.content %}{{ part.text }}{% endfor %}{{ '\n' }}{% endfor %}"
)


def chat(*messages: str) -> list[dict[str, Any]]:
    """Messages from "role text"."""
    pairs = (message.partition(" ") for message in messages)
    return [{"role": role, "content": content} for role, _, content in pairs]


def render(source: str, *messages: str) -> str:
    template = ChatTemplate(source, {})
    given = chat(*messages)
    if template.expects_parts:
        given = [
            {**message, "content": [{"type": "text", "text": message["content"]}]}
            for message in given
        ]
    return render_all_messages(template, given, add_generation_prompt=False)


SHOWN = [
    # A developer message is a system message, at the beginning.
    (ANY_ROLE, ["developer A", "user Q"], "<system>A\n<user>Q\n"),
    (FOUR_ROLES, ["developer A", "user Q"], "<system>A\n<user>Q\n"),
    (STRICT, ["developer A", "user Q"], "<system>A\n<user>Q\n"),
    (PARTS, ["developer A", "user Q"], "<system>A\n<user>Q\n"),
    (STRICT, ["system A", "developer B", "user Q"], "<system>A\n\nB\n<user>Q\n"),
    (ANY_ROLE, ["user Q", "developer A", "user R"], "<system>A\n<user>Q\n<user>R\n"),
    (PARTS, ["system A", "user Q", "developer B"], "<system>A\n\nB\n<user>Q\n"),
    (ANY_ROLE, ["developer ", "system A", "user Q"], "<system>A\n<user>Q\n"),
    # Unless the template has that role.
    (NAMES_DEVELOPER, ["system A", "developer B", "user Q"], "<system>A\n<|dev|>B\n<user>Q\n"),
    # System messages stay where they are, if the template takes them there.
    (ANY_ROLE, ["user Q", "system A", "system B"], "<user>Q\n<system>A\n<system>B\n"),
    (FOUR_ROLES, ["system A", "user Q", "system B"], "<system>A\n<user>Q\n<system>B\n"),
    (STRICT, ["system A", "user Q", "system B"], "<system>A\n\nB\n<user>Q\n"),
    (STRICT, ["user Q", "system A"], "<system>A\n<user>Q\n"),
    (FIRST_ONLY, ["system A", "system B", "user Q"], "<system>A\n\nB\n<user>Q\n"),
    (LAST_SYSTEM, ["system A", "system B", "user Q"], "<system>A\n\nB\n<user>Q\n"),
    (PARTS, ["user Q", "system A", "system B"], "<system>A\n\nB\n<user>Q\n"),
    # A template without them shows their text with the first question.
    (NO_SYSTEM, ["system A", "user Q"], "<user>A\n\nQ\n"),
    (NO_SYSTEM, ["user Q", "assistant X", "developer A"], "<user>A\n\nQ\n<assistant>X\n"),
    # Other roles, where the template shows them.
    (ANY_ROLE, ["user Q", "critic C", "ipython D"], "<user>Q\n<critic>C\n<ipython>D\n"),
    (FOUR_ROLES, ["user Q", "tool T"], "<user>Q\n<tool>T\n"),
    # There is nothing to lose.
    (FOUR_ROLES, ["user Q", "critic "], "<user>Q\n"),
]
LOST = [
    (FOUR_ROLES, ["user Q", "critic C"], "critic"),
    (FOUR_ROLES, ["user Q", "function C", "user R"], "function"),
    (FIRST_ONLY, ["user Q", "tool T"], "tool"),
    (STRICT, ["user Q", "critic C"], "Unexpected role critic"),
    (STRICT, ["user Q", "system A", "critic C"], "must be at the beginning"),
    (REJECTS_SYSTEM, ["system A", "user Q"], "no system"),
    (REJECTS_SYSTEM, ["developer A", "user Q"], "no system"),
    (NO_SYSTEM, ["system A", "assistant X"], "system"),
]


@pytest.mark.parametrize(("source", "messages", "expected"), SHOWN)
def test_all_messages_are_shown(source: str, messages: list[str], expected: str) -> None:
    assert render(source, *messages) == expected


@pytest.mark.parametrize(("source", "messages", "named"), LOST)
def test_a_message_that_cannot_be_shown_is_an_error(
    source: str, messages: list[str], named: str
) -> None:
    with pytest.raises(BadRequest, match=named):
        render(source, *messages)


@pytest.mark.parametrize("source", [ANY_ROLE, FOUR_ROLES, STRICT, CHAT_TEMPLATE, REJECTS_SYSTEM])
def test_usual_chats_are_rendered_once_as_they_are(source: str) -> None:
    template = ChatTemplate(source, {})
    given = chat("user Q", "assistant X", "tool T", "user R")
    render_all_messages(template, given, add_generation_prompt=True)  # learns what it shows
    rendered: list[Any] = []
    plain = template.render

    def noted(messages: Any, **arguments: Any) -> str:
        rendered.append(messages)
        return plain(messages, **arguments)

    template.render = noted  # type: ignore[method-assign]
    render_all_messages(template, given, add_generation_prompt=True)
    assert rendered == [given]


def app(make_app: MAKE_APP, text: ModelTokenizer, source: str, **serving: Any) -> Client:
    info = text.info.model_copy(update={"chat_template": source})
    options = ServingOptions(**serving)
    return make_app(type(text)(info, text.backend), serving=options).test_client()


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/tokenize"])
async def test_roles_in_requests(
    make_app: MAKE_APP, text: ModelTokenizer, pool: FakePool, path: str, own: bool
) -> None:
    """own: the template is that of the request."""
    client = app(make_app, text, ANY_ROLE if own else STRICT, trust_request_chat_template=own)
    body = {"messages": chat("system A", "user Q", "developer B")}
    if own:
        body["chat_template"] = STRICT  # type: ignore[assignment]
    answer = await client.post(path, json=body)
    assert answer.status_code == 200, await answer.get_data(as_text=True)
    ids = (
        (await answer.get_json())["tokens"]
        if path == "/tokenize"
        else pool.requests[0].prompt_token_ids
    )
    assert text.backend.decode(ids, skip_special_tokens=False) == "<system>A\n\nB\n<user>Q\n"


async def test_a_role_that_is_left_out_is_a_bad_request(
    make_app: MAKE_APP, text: ModelTokenizer, pool: FakePool
) -> None:
    client = app(make_app, text, FOUR_ROLES)
    body = {"messages": chat("user Q", "critic C")}
    answer = await client.post("/v1/chat/completions", json=body)
    error = (await answer.get_json())["error"]
    assert (answer.status_code, error["param"]) == (400, "messages")
    assert "'critic'" in error["message"]
    assert not pool.requests


CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/tokenize"])
async def test_calls_do_not_vanish_from_a_message_that_is_to_be_continued(
    client: Client, pool: FakePool, path: str
) -> None:
    last = {"role": "assistant", "content": "I look.", "tool_calls": [CALL]}
    body = {
        "messages": [*chat("user Q"), last],
        "continue_final_message": True,
        "add_generation_prompt": False,
    }
    answer = await client.post(path, json=body)
    error = (await answer.get_json())["error"]
    assert (answer.status_code, error["param"]) == (400, "continue_final_message")
    assert "tool calls" in error["message"]
    assert not pool.requests
    del last["tool_calls"]
    assert (await client.post(path, json=body)).status_code == 200


async def test_nor_do_they_in_anthropics_format(client: Client, pool: FakePool) -> None:
    use = {"type": "tool_use", "id": "c1", "name": "f", "input": {}}
    last = {"role": "assistant", "content": [use, {"type": "text", "text": "So"}]}
    body = {"model": "smol", "max_tokens": 5, "messages": [*chat("user Q"), last]}
    answer = await client.post("/v1/messages", json=body)
    error = (await answer.get_json())["error"]
    assert (answer.status_code, error["type"]) == (400, "invalid_request_error")
    assert error["message"].startswith("messages")
    assert not pool.requests
