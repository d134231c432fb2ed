"""Limits of keys as clients see them: on which routes, what counts, and what answers say."""

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from headrace.frontend.access.key_table import KeyTable
from headrace.frontend.rate_limits import rate_limits
from headrace.frontend.structured.fair_semaphore import FairSemaphore
from headrace.frontend.text.model_tokenizer import ModelTokenizer
from tests.frontend.asgi import Exchange
from tests.frontend.conftest import ANSWER, MAKE_APP
from tests.frontend.fake_pool import FakePool
from tests.security.keys_of_tenants import ANN, ANN_TOO, BOB, KeyClient, api_key, key_table

CHAT = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 5}
COMPLETION = {"prompt": "Hello", "max_tokens": 5}
REQUESTS: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": CHAT,
    "/v1/chat/completions/batch": {**CHAT, "messages": [CHAT["messages"]]},
    "/v1/completions": COMPLETION,
    "/invocations": CHAT,
    "/v1/responses": {"input": "Hello", "max_output_tokens": 5},
    "/v1/responses/compact": {"model": "smol", "input": "Hello"},
    "/v1/messages": {"model": "smol", **CHAT},
    "/v1/decisions": {
        "model": "smol",
        "input": "x",
        "questions": [{"type": "predicate", "instructions": "?"}],
    },
}
# Of models that pool.
POOLING: dict[str, dict[str, Any]] = {
    "/v1/embeddings": {"input": "Hello"},
    "/pooling": {"input": "Hello"},
    "/score": {"text_1": "Hello", "text_2": "Hello"},
    "/v2/rerank": {"query": "Hello", "documents": "Hello"},
    "/v2/embed": {"texts": ["Hello"]},
    "/invocations": {"input": "Hello"},
}
POOLING_FIELDS = {path: list(fields)[-1] for path, fields in POOLING.items()}
Ask = Callable[..., Any]


@pytest.fixture
async def limited(make_app: MAKE_APP) -> AsyncIterator[Callable[..., Any]]:
    """Starts a frontend whose keys have these limits; returns a client with ann's key."""
    apps: list[Any] = []

    async def start(**limits: int) -> KeyClient:
        app = make_app(keys=key_table(**limits))
        apps.append(app.test_app())
        await apps[-1].startup()
        return KeyClient(app.test_client(), ANN)

    yield start
    for app in apps:
        await app.shutdown()


async def chat(client: KeyClient, **fields: Any) -> Any:
    return await client.post("/v1/chat/completions", json={**CHAT, **fields})


@pytest.mark.parametrize("path", REQUESTS)
async def test_requests_for_text_count_on_each_route(limited: Ask, path: str) -> None:
    client = await limited(requests_per_minute=2)
    statuses = [(await client.post(path, json=REQUESTS[path])).status_code for _ in range(3)]
    assert 429 not in statuses[:2]
    assert statuses[2] == 429
    other = [(await chat(client)).status_code, (await client.get("/v1/models")).status_code]
    assert other == [429, 200]


@pytest.mark.parametrize(("path", "field"), POOLING_FIELDS.items())
async def test_texts_for_numbers_count(
    make_app: MAKE_APP, pooling_text: ModelTokenizer, pool: FakePool, path: str, field: str
) -> None:
    """Their requests, and the tokens of all their texts."""
    keys = key_table(requests_per_minute=3, tokens_per_minute=100)
    async with make_app(model=pooling_text, keys=keys).test_app() as app:
        client = KeyClient(app.test_client(), ANN)
        found = await client.post(path, json=POOLING[path])
        assert found.status_code == 200
        used = sum(len(request.prompt_token_ids) for request in pool.encoded)
        left = int(found.headers["x-ratelimit-remaining-tokens"])
        assert 0 < used < 50
        assert 100 - used <= left < 100 - used / 2  # some come back meanwhile
        count = len(pool.encoded)
        each = len(pool.encoded[-1].prompt_token_ids)
        many = POOLING[path] | {field: ["Hello"] * ((100 - used) // each + 1)}
        assert (await client.post(path, json=many)).status_code == 429
        many[field] *= 2  # more than a minute's tokens
        refused = await client.post(path, json=many)
        assert refused.status_code == 400
        assert (await refused.get_json())["error"]["param"] == field
        assert len(pool.encoded) == count  # what is refused does not run
        assert (await client.post(path, json=POOLING[path])).status_code == 429


async def test_a_refusal_says_which_limit_and_when_to_come_again(limited: Ask) -> None:
    client = await limited(requests_per_minute=2, tokens_per_minute=10_000)
    first = await chat(client)
    assert first.headers["x-ratelimit-limit-requests"] == "2"
    assert first.headers["x-ratelimit-remaining-requests"] == "1"
    assert 0 < seconds(first.headers["x-ratelimit-reset-requests"]) <= 30
    used = (await first.get_json())["usage"]["total_tokens"]
    # They come back meanwhile, 167 a second.
    assert 10_000 - used <= int(first.headers["x-ratelimit-remaining-tokens"]) <= 10_000
    await chat(client)
    refused = await chat(client)
    assert refused.status_code == 429
    assert 0 < int(refused.headers["Retry-After"]) <= 30
    assert refused.headers["x-ratelimit-remaining-requests"] == "0"
    error = (await refused.get_json())["error"]
    assert (error["type"], error["code"]) == ("requests", "rate_limit_exceeded")
    assert "2 requests a minute" in error["message"]


def seconds(text: str) -> float:
    units = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
    return sum(
        float(value) * units[unit] for value, unit in re.findall(r"([\d.]+)(ms|[hms])", text)
    )


async def test_messages_have_anthropics_headers_and_errors(limited: Ask) -> None:
    client = await limited(requests_per_minute=1, tokens_per_minute=1000)
    message = {"model": "smol", **CHAT}
    found = await client.post("/v1/messages", json=message)
    assert found.status_code == 200
    assert found.headers["anthropic-ratelimit-requests-limit"] == "1"
    assert found.headers["anthropic-ratelimit-requests-remaining"] == "0"
    reset = datetime.strptime(
        found.headers["anthropic-ratelimit-requests-reset"], "%Y-%m-%dT%H:%M:%SZ"
    )
    assert 0 < (reset.replace(tzinfo=UTC) - datetime.now(UTC)).total_seconds() <= 60
    assert "anthropic-ratelimit-tokens-remaining" in found.headers
    assert not [name for name, _ in found.headers if name.startswith("x-ratelimit")]
    refused = await client.post("/v1/messages", json=message)
    assert refused.status_code == 429
    assert 0 < int(refused.headers["retry-after"]) <= 60
    body = await refused.get_json()
    assert (body["type"], body["error"]["type"]) == ("error", "rate_limit_error")


async def test_without_limits_there_are_no_headers(limited: Ask) -> None:
    found = await chat(await limited())
    assert found.status_code == 200
    assert not [name for name, _ in found.headers if "ratelimit" in name]


async def test_keys_do_not_share_limits(make_app: MAKE_APP) -> None:
    async with make_app(keys=key_table(requests_per_minute=1)).test_app() as app:
        clients = [KeyClient(app.test_client(), key) for key in (ANN, BOB)]
        statuses = [(await chat(each)).status_code for each in clients * 2]
    assert statuses == [200, 200, 429, 429]


async def test_two_frontends_count_together(make_app: MAKE_APP) -> None:
    apps = [make_app(keys=key_table(requests_per_minute=10)) for _ in range(2)]
    async with apps[0].test_app(), apps[1].test_app():
        clients = [KeyClient(app.test_client(), ANN) for app in apps]
        answers = await asyncio.gather(*(chat(each) for each in clients * 15))
    assert sorted(each.status_code for each in answers) == [200] * 10 + [429] * 20


async def test_a_changed_limit_holds_at_once_and_keeps_what_was_used(make_app: MAKE_APP) -> None:
    table = KeyTable((), is_open=False)
    table.replace_file_keys([api_key(ANN, "ann", limits={"requests_per_minute": 2})])
    async with make_app(keys=table).test_app() as app:
        client = KeyClient(app.test_client(), ANN)
        assert [(await chat(client)).status_code for _ in range(3)] == [200, 200, 429]
        table.replace_file_keys([api_key(ANN, "ann", limits={"requests_per_minute": 4})])
        assert [(await chat(client)).status_code for _ in range(3)] == [200, 200, 429]
        table.replace_file_keys([api_key(ANN, "ann")])
        assert (await chat(client)).status_code == 200


# Requests at once


async def test_requests_at_once_are_bounded(limited: Ask, pool: FakePool) -> None:
    pool.hold_after = 1
    client = await limited(max_requests=2)
    running = [asyncio.create_task(chat(client)) for _ in range(2)]
    await pool.wait_for_streams(2)
    refused = await chat(client)
    assert refused.status_code == 429
    assert refused.headers["Retry-After"] == "1"
    assert "2 requests at once" in (await refused.get_json())["error"]["message"]
    pool.release.set()
    assert [each.status_code for each in await asyncio.gather(*running)] == [200, 200]
    assert (await chat(client)).status_code == 200


async def test_a_background_response_runs_at_once_until_it_ends(
    limited: Ask, pool: FakePool
) -> None:
    pool.hold_after = 1
    client = await limited(max_requests=1)
    asked = {"input": "Hello", "background": True}
    assert (await client.post("/v1/responses", json=asked)).status_code == 200
    await pool.wait_for_streams(1)
    assert (await chat(client)).status_code == 429
    pool.release.set()
    for _ in range(200):
        if (ended := (await chat(client)).status_code) == 200:
            break
        await asyncio.sleep(0.02)
    assert ended == 200


# Tokens


@pytest.fixture
def still(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nothing flow off."""
    monkeypatch.setattr(time, "monotonic_ns", lambda: 10**15)


async def used_tokens(client: KeyClient, limit: int) -> int:
    """What is used now; the request that tells it uses nothing itself: it is invalid."""
    found = await chat(client, max_tokens=-1)
    assert found.status_code == 400
    return limit - int(found.headers["x-ratelimit-remaining-tokens"])


LIMIT = 100_000


@pytest.mark.parametrize(
    ("path", "body", "usage"),
    [
        ("/v1/chat/completions", CHAT, ("prompt_tokens", "completion_tokens")),
        ("/v1/chat/completions", {**CHAT, "n": 3}, ("prompt_tokens", "completion_tokens")),
        (
            "/v1/completions",
            {"prompt": ["Hello", "World"], "n": 2, "max_tokens": 9},
            ("prompt_tokens", "completion_tokens"),
        ),
        (
            "/v1/completions",
            {"prompt": "Hello", "n": 2, "use_beam_search": True, "max_tokens": 4},
            ("prompt_tokens", "completion_tokens"),
        ),
        (
            "/v1/completions",
            {"prompt": "Hello", "max_tokens": 0, "echo": True},
            ("prompt_tokens", "completion_tokens"),
        ),
        (
            "/v1/responses",
            {"input": "Hello"},
            ("input_tokens", "output_tokens"),
        ),
        ("/v1/messages", {"model": "smol", **CHAT}, ("input_tokens", "output_tokens")),
    ],
)
@pytest.mark.usefixtures("still")
async def test_tokens_are_settled_to_what_the_usage_says(
    limited: Ask, path: str, body: dict[str, Any], usage: tuple[str, str]
) -> None:
    client = await limited(tokens_per_minute=LIMIT)
    answer = await client.post(path, json=body)
    assert answer.status_code == 200, await answer.get_data(as_text=True)
    reported = (await answer.get_json())["usage"]
    assert await used_tokens(client, LIMIT) == sum(reported[name] for name in usage)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", CHAT | {"max_tokens": 200}),
        ("/v1/completions", COMPLETION | {"max_tokens": 200}),
        ("/v1/responses", {"input": "Hello", "max_output_tokens": 200}),
        ("/v1/responses", {"input": "Hello", "max_output_tokens": 200, "background": True}),
    ],
)
async def test_what_a_request_may_take_is_reserved_while_it_runs(
    limited: Ask, pool: FakePool, path: str, body: dict[str, Any]
) -> None:
    pool.hold_after = 1
    client = await limited(tokens_per_minute=300)
    running = asyncio.create_task(chat(client, max_tokens=200))
    await pool.wait_for_streams(1)
    refused = await client.post(path, json=body)
    assert refused.status_code == 429
    error = (await refused.get_json())["error"]
    assert (error["type"], error["code"]) == ("tokens", "rate_limit_exceeded")
    assert int(refused.headers["Retry-After"]) > 10
    pool.release.set()
    assert (await running).status_code == 200
    assert (await chat(client, max_tokens=200)).status_code == 200


@pytest.mark.usefixtures("still")
async def test_a_cut_stream_counts_what_was_generated(make_app: MAKE_APP, pool: FakePool) -> None:
    pool.hold_after = 4
    app = make_app(keys=key_table(tokens_per_minute=LIMIT))
    async with app.test_app():
        client = KeyClient(app.test_client(), ANN)
        body = json.dumps({**CHAT, "max_tokens": 500, "stream": True}).encode()
        head = {"content-type": "application/json", "authorization": f"Bearer {ANN}"}
        exchange = Exchange(app, "/v1/chat/completions", body, head)
        await exchange.wait_for_chunks(3)
        reserved = await used_tokens(client, LIMIT)
        assert reserved > 500
        await exchange.disconnect()
        prompt = len(pool.requests[0].prompt_token_ids)
        assert await used_tokens(client, LIMIT) == prompt + 4


@pytest.mark.usefixtures("still")
async def test_a_request_that_never_ran_costs_nothing(limited: Ask) -> None:
    client = await limited(tokens_per_minute=LIMIT)
    assert (await chat(client, logit_bias={"999999": 1})).status_code == 400
    assert await used_tokens(client, LIMIT) == 0


@pytest.mark.usefixtures("still")
async def test_output_beyond_what_was_reserved_is_owed(
    limited: Ask, pool: FakePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rate_limits, "RESERVED_TOKENS", 2)
    client = await limited(tokens_per_minute=LIMIT)
    answer = await chat(client, max_tokens=20)
    usage = (await answer.get_json())["usage"]
    assert usage["completion_tokens"] > 2
    assert await used_tokens(client, LIMIT) == usage["total_tokens"]


@pytest.mark.parametrize(
    ("path", "body", "kind"),
    [
        ("/v1/chat/completions", {**CHAT, "max_tokens": 60}, "BadRequestError"),
        ("/v1/chat/completions", {**CHAT, "n": 30}, "BadRequestError"),
        ("/v1/completions", {"prompt": "x" * 100}, "BadRequestError"),
        ("/v1/messages", {"model": "smol", **CHAT, "max_tokens": 60}, "invalid_request_error"),
    ],
)
async def test_a_request_above_the_limit_is_told_that_it_can_never_run(
    limited: Ask, path: str, body: dict[str, Any], kind: str
) -> None:
    client = await limited(tokens_per_minute=50)
    answer = await client.post(path, json=body)
    assert answer.status_code == 400
    error = (await answer.get_json())["error"]
    assert error["type"] == kind
    assert "can never run" in error["message"]
    assert "50 tokens a minute" in error["message"]


async def test_chats_of_one_request_add_up(limited: Ask) -> None:
    client = await limited(tokens_per_minute=100)
    path, fields = "/v1/chat/completions/batch", {"max_tokens": 5}
    few, many = ({**fields, "messages": [CHAT["messages"]] * count} for count in (2, 8))
    answer = await client.post(path, json=many)
    assert answer.status_code == 400
    assert "can never run" in (await answer.get_json())["error"]["message"]
    assert (await client.post(path, json=few)).status_code == 200


async def test_a_request_without_a_bound_runs_if_its_prompt_fits(limited: Ask) -> None:
    client = await limited(tokens_per_minute=70)
    fields = {"messages": CHAT["messages"]}
    answer = await client.post("/v1/chat/completions", json=fields)
    assert answer.status_code == 200
    assert (await answer.get_json())["choices"][0]["message"]["content"] == ANSWER


# Metrics


async def test_metrics_name_tenants_and_no_users(limited: Ask) -> None:
    client = await limited(requests_per_minute=2)
    for _ in range(3):
        await chat(client, user="secret-user")
    text = await (await client.get("/metrics")).get_data(as_text=True)
    assert "secret-user" not in text
    assert 'headrace:tenant_requests_total{tenant="ann"} 2.0' in text
    assert 'headrace:tenant_rate_limited_total{limit="requests",tenant="ann"} 1.0' in text
    assert 'headrace:requests_refused_total{reason="rate_limit"} 1.0' in text
    assert 'headrace:tenant_tokens_total{kind="generation",tenant="ann"} 10.0' in text


async def test_metrics_tell_a_key_of_no_other_tenant(make_app: MAKE_APP) -> None:
    table = KeyTable(
        [api_key(ANN, "ann"), api_key(BOB, "bob"), api_key(ANN_TOO, "root", is_admin=True)]
    )
    async with make_app(keys=table).test_app() as app:
        ann, bob, root = (KeyClient(app.test_client(), key) for key in (ANN, BOB, ANN_TOO))
        for client in (ann, bob):
            await chat(client)
        texts = [await (await each.get("/metrics")).get_data(as_text=True) for each in (ann, root)]
    assert ['tenant="ann"' in text for text in texts] == [True, True]
    assert ['tenant="bob"' in text for text in texts] == [False, True]
    assert "headrace:generation_tokens_total" in texts[0]


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages", "/v1/responses"])
async def test_workers_are_told_the_tenant_and_the_user(
    make_app: MAKE_APP, pool: FakePool, path: str
) -> None:
    user = {"metadata": {"user_id": "bob"}} if path == "/v1/messages" else {"user": "bob"}
    body = {**REQUESTS[path], **user}
    for keys, expected in ((key_table(), ("ann", "bob")), (None, ("bob", ""))):
        async with make_app(keys=keys).test_app() as app:
            await KeyClient(app.test_client(), ANN).post(path, json=body)
        asked = pool.requests[-1]
        assert (asked.tenant, asked.user) == expected


async def test_a_tenant_is_one_client_of_the_checkers(
    make_app: MAKE_APP, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many addresses it comes from: a flood of its grammars leaves others theirs."""
    clients: list[str] = []
    acquire = FairSemaphore.acquire

    def note(self: FairSemaphore, client: str = "") -> Any:
        clients.append(client)
        return acquire(self, client)

    monkeypatch.setattr(FairSemaphore, "acquire", note)
    async with make_app(keys=key_table()).test_app() as app:
        for number, key in enumerate((ANN, ANN_TOO, BOB)):
            choice = {"choice": [f"grammar {number}"]}
            answer = await chat(KeyClient(app.test_client(), key), structured_outputs=choice)
            assert answer.status_code == 200, await answer.get_data(as_text=True)
    assert clients == ["tenant ann", "tenant ann", "tenant bob"]
