"""Documents, content formats, and templates that requests bring."""

import asyncio
import time
from typing import Any

import jinja2
import pytest
from quart.typing import TestClientProtocol as Client

from headrace.frontend.chat.content_format import expects_parts
from headrace.frontend.chat.templates import ChatTemplate
from headrace.frontend.text.model_tokenizer import ModelTokenizer
from headrace.protocol.config import ServingOptions
from tests.frontend.asking import QUESTION, ask, rejection
from tests.frontend.conftest import MAKE_APP
from tests.frontend.fake_pool import FakePool
from tests.stand_ins.sitecustomize import ALLOCATES, DIES, SLEEPS, WRITES, python_path

SHOW = "{% for m in messages %}{{ m.role }}={{ m.content | tojson }};{% endfor %}"
PARTS = "{% for m in messages %}{% for p in m['content'] %}[{{ p.text }}]{% endfor %}{% endfor %}"
TWO_PARTS = [{"role": "user", "content": [{"type": "text", "text": t} for t in ("one", "two")]}]
TRUSTING = ServingOptions(trust_request_chat_template=True)


def with_template(text: ModelTokenizer, source: str) -> ModelTokenizer:
    info = text.info.model_copy(update={"chat_template": source})
    return ModelTokenizer(info, text.backend)


async def shown(client: Client, **fields: Any) -> str:
    """The chat as its template has written it."""
    response, body = await ask(client, return_prompt_text=True, **fields)
    assert response.status_code == 200, body
    found: str = body["prompt_text"]
    return found


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (SHOW, False),
        (PARTS, True),
        ("{% for m in messages %}{% for p in m.content %}{% endfor %}{% endfor %}", True),
        (
            "{% for m in messages %}{% set c = m.content %}{% for p in c %}{% endfor %}"
            "{% endfor %}",
            True,
        ),
        ("{% for p in messages[0]['content'] | list %}{{ p }}{% endfor %}", True),
        ("{% for p in m.tool_calls %}{{ p.content }}{% endfor %}", False),
        ("{% set c = m.content %}{{ c }}{% for m in messages[1:] %}{% endfor %}", False),
        (
            "{% if m.content is sequence %}{% set c = m.content %}{% else %}"
            "{% set c = m.tool_calls %}{% endif %}{% for call in c %}{% endfor %}",
            False,
        ),
    ],
)
def test_a_template_shows_what_it_takes(source: str, expected: bool) -> None:
    assert expects_parts(jinja2.Environment().parse(source)) == expected
    assert ChatTemplate(source, {}).expects_parts == expected


@pytest.mark.parametrize(
    ("source", "form", "expected"),
    [
        (SHOW, "auto", 'user="one\\ntwo";'),
        (SHOW, "string", 'user="one\\ntwo";'),
        (PARTS, "auto", "[one][two]"),
        (PARTS, "openai", "[one][two]"),
        (SHOW, "openai", None),
    ],
)
async def test_parts_as_the_template_takes_them(
    make_app: MAKE_APP, text: ModelTokenizer, source: str, form: str, expected: str | None
) -> None:
    serving = ServingOptions(chat_template_content_format=form)
    client = make_app(with_template(text, source), serving).test_client()
    written = await shown(client, messages=TWO_PARTS)
    if expected is None:
        expected = 'user=[{"type": "text", "text": "one"}, {"type": "text", "text": "two"}];'
    assert written == expected


async def test_a_text_is_one_part_for_a_template_that_takes_parts(
    make_app: MAKE_APP, text: ModelTokenizer
) -> None:
    client = make_app(with_template(text, PARTS)).test_client()
    assert await shown(client) == f"[{QUESTION[0]['content']}]"
    final = {"role": "assistant", "content": [{"type": "text", "text": "a"}] * 2}
    fields = {"continue_final_message": True, "add_generation_prompt": False}
    assert await shown(client, messages=[*QUESTION, final], **fields) == (
        f"[{QUESTION[0]['content']}][a][a"
    )


async def test_documents_reach_the_template(make_app: MAKE_APP, text: ModelTokenizer) -> None:
    source = "{% for d in documents or [] %}({{ d.title }}: {{ d.text }}){% endfor %}."
    client = make_app(with_template(text, source)).test_client()
    assert await shown(client, documents=[{"title": "T", "text": "x"}]) == "(T: x)."
    assert await shown(client, documents=[]) == "."
    assert await shown(client) == "."
    assert (await rejection(client, documents=[{"title": 1}]))["param"].startswith("body.documents")
    assert (await rejection(client, documents=[{}] * 2000))["param"] == "documents"


async def test_the_operators_variables_give_way_to_the_requests(
    make_app: MAKE_APP, text: ModelTokenizer
) -> None:
    serving = ServingOptions(default_chat_template_kwargs={"a": 1, "b": [2]})
    client = make_app(with_template(text, "{{ a }} {{ b }} {{ c }}"), serving).test_client()
    assert await shown(client) == "1 [2] "
    assert await shown(client, chat_template_kwargs={"a": 5, "c": 6}) == "5 [2] 6"
    with pytest.raises(ValueError, match="messages"):
        ServingOptions(default_chat_template_kwargs={"messages": []})


async def test_a_requests_template_needs_the_operators_trust(
    client: Client, pool: FakePool, make_app: MAKE_APP
) -> None:
    error = await rejection(client, chat_template="{{ 1 }}")
    assert error["param"] == "chat_template"
    response = await client.post(
        "/tokenize", json={"messages": QUESTION, "chat_template": "{{ 1 }}"}
    )
    assert response.status_code == 400
    trusting = make_app(serving=TRUSTING).test_client()
    source = "{{ bos_token }}|{{ x }}|{{ documents[0].t }}|" + SHOW
    fields = {"chat_template_kwargs": {"x": "ü"}, "documents": [{"t": "d"}]}
    written = await shown(trusting, chat_template=source, **fields)
    assert written == f'<|im_start|>|ü|d|user="{QUESTION[0]["content"]}";'
    assert await shown(trusting, chat_template=PARTS, messages=TWO_PARTS) == "[one][two]"
    body = {"messages": QUESTION, "chat_template": "Hello", "return_token_strs": True}
    answer = await (await trusting.post("/tokenize", json=body)).get_json()
    assert answer["token_strs"] == ["Hello"]


@pytest.mark.parametrize(
    "source",
    [
        "{{ messages.__class__.x }}",
        "{% include '/etc/passwd' %}",
        "{% if %}",
        "{{ " + "(" * 2000 + " }}",
        "{{ raise_exception('no') }}",
    ],
    ids=lambda source: source[:30],
)
async def test_templates_that_fail_tell_nothing(make_app: MAKE_APP, source: str) -> None:
    client = make_app(serving=TRUSTING).test_client()
    error = await rejection(client, chat_template=source)
    assert error["param"] == "chat_template"
    assert "rendering takes too" not in error["message"]
    assert "/" not in error["message"]
    assert "0x" not in error["message"]


@pytest.fixture
def misbehaving(monkeypatch: pytest.MonkeyPatch) -> None:
    """Templates render as they say (tests/stand_ins)."""
    monkeypatch.setenv("PYTHONPATH", python_path())


TOO_MUCH = "chat_template: rendering takes too long or too much memory."
OUT_OF_MEMORY = "chat_template: The chat template cannot render these messages."


@pytest.mark.parametrize(
    ("source", "deadline_s", "message"),
    [
        (SLEEPS, 1.5, TOO_MUCH),
        (ALLOCATES, 60, OUT_OF_MEMORY),
        (DIES, 60, TOO_MUCH),
        (WRITES, 60, TOO_MUCH),
    ],
)
async def test_time_memory_and_output_are_bounded(
    make_app: MAKE_APP, misbehaving: None, source: str, deadline_s: float, message: str
) -> None:
    client = make_app(serving=TRUSTING).test_client()
    assert await shown(client, chat_template="harmless") == "harmless"
    client = make_app(serving=TRUSTING, chat_template_timeout_s=deadline_s).test_client()
    error = await rejection(client, chat_template=source)
    assert (error["param"], error["message"]) == ("chat_template", message)


async def test_others_are_answered_meanwhile(make_app: MAKE_APP, misbehaving: None) -> None:
    client = make_app(serving=TRUSTING, chat_template_timeout_s=1.0).test_client()
    hostile = asyncio.create_task(rejection(client, chat_template=SLEEPS))
    answered = 0
    started = time.monotonic()
    while not hostile.done() and time.monotonic() < started + 30:
        response, _ = await ask(client)
        answered += response.status_code == 200
    await hostile
    assert answered > 2
