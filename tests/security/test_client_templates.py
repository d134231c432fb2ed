"""Chat templates and their arguments, as clients send them."""

import asyncio
from typing import Any

import pytest
from quart.typing import TestClientProtocol as Client

from headrace.protocol.config import RESERVED_NAMES, ServingOptions
from tests.frontend.conftest import MAKE_APP
from tests.frontend.fake_pool import FakePool
from tests.stand_ins.sitecustomize import SLEEPS, python_path

USER = {"role": "user", "content": "Hi"}
ROUTES: list[tuple[str, dict[str, Any]]] = [
    ("/v1/chat/completions", {"messages": [USER]}),
    ("/v1/chat/completions/batch", {"messages": [[USER]]}),
    ("/v1/messages", {"model": "smol", "max_tokens": 5, "messages": [USER]}),
    ("/v1/messages/count_tokens", {"model": "smol", "messages": [USER]}),
    ("/v1/responses", {"input": "Hi", "store": False}),
    ("/tokenize", {"messages": [USER]}),
    ("/invocations", {"messages": [USER]}),
]
WITH_TEMPLATES = [each for each in ROUTES if each[0] not in ("/v1/messages", "/v1/responses")]
ESCAPES = [
    "{{ ''.__class__.__mro__ }}",
    "{{ messages.__init__.__globals__ }}",
    "{{ raise_exception.__globals__ }}",
    "{{ cycler.__init__.__globals__.os }}",
    "{{ (messages|attr('append'))({}) }}",
    "{% include '/etc/passwd' %}",
    "{% import 'os' as os %}",
    "{{ '%s'|format(messages.__class__) }}",
    "{{ '{0.__class__}'.format(messages) }}",
]


@pytest.mark.parametrize(("route", "body"), WITH_TEMPLATES)
async def test_cve_2025_61620_templates_of_requests_are_refused(
    client: Client, pool: FakePool, route: str, body: dict[str, Any]
) -> None:
    """CVE-2025-61620: a request's template runs in the server."""
    response = await client.post(route, json={**body, "chat_template": "{{ 1 }}"})
    if route.startswith("/v1/messages"):  # an unknown field there, without effect
        assert "chat_template" in response.headers["X-Headrace-Ignored-Fields"]
        return
    assert response.status_code == 400
    assert (await response.get_json())["error"]["param"] == "chat_template"
    assert not pool.requests


@pytest.mark.parametrize("template", ESCAPES)
async def test_cve_2025_61620_trusted_templates_see_their_variables_alone(
    make_app: MAKE_APP, pool: FakePool, template: str
) -> None:
    """CVE-2025-61620: where an operator trusts requests, templates stay within the sandbox."""
    serving = ServingOptions(trust_request_chat_template=True)
    client = make_app(serving=serving).test_client()
    body = {"messages": [USER], "chat_template": template, "return_prompt_text": True}
    response = await client.post("/v1/chat/completions", json=body)
    answer = await response.get_json()
    if response.status_code == 200:  # what is unknown is empty
        assert not (answer.get("prompt_text") or "").strip("\n")
        return
    assert response.status_code == 400, answer
    assert answer["error"]["param"] in ("chat_template", "prompt", "messages")
    for leak in ("<class", "root:", "0x", "/usr", "os.py"):
        assert leak not in answer["error"]["message"]


async def test_cve_2025_61620_health_answers_while_a_template_runs(
    make_app: MAKE_APP, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CVE-2025-61620: an endless template stops the server. A stand-in takes the time here."""
    monkeypatch.setenv("PYTHONPATH", python_path())
    serving = ServingOptions(trust_request_chat_template=True)
    client = make_app(serving=serving, chat_template_timeout_s=2.0).test_client()
    body = {"messages": [USER], "chat_template": SLEEPS}
    hostile = asyncio.ensure_future(client.post("/v1/chat/completions", json=body))
    answered = 0
    while not hostile.done():
        assert (await client.get("/health")).status_code == 200
        answered += 1
        await asyncio.sleep(0.05)
    assert answered > 1
    response = await hostile
    assert response.status_code == 400
    assert "too long" in (await response.get_json())["error"]["message"]


@pytest.mark.parametrize("name", sorted(RESERVED_NAMES))
async def test_cve_2025_62426_arguments_do_not_replace_reserved_names(
    client: Client, pool: FakePool, name: str
) -> None:
    """CVE-2025-62426: a request's template arguments replace what the server passes."""
    for route, body in ROUTES:
        fields = {"chat_template_kwargs": {name: "{{ 1 }}"}}
        response = await client.post(route, json={**body, **fields})
        text = await response.get_data(as_text=True)
        assert response.status_code == 400, (route, text)
        assert "chat_template_kwargs" in text
        assert name in text
    assert not pool.requests
