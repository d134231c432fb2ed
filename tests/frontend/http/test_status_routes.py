import asyncio
import json
import re
from importlib.metadata import version
from pathlib import Path
from typing import cast

import pytest
from quart.typing import TestClientProtocol as Client

from headrace.frontend.context import served_models
from headrace.frontend.process.drain import LAST_WORDS_S, Drain
from headrace.frontend.text.model_tokenizer import ModelTokenizer
from headrace.protocol.config import GroupConfig, PoolConfig
from headrace.protocol.state import (
    FrontendLoad,
    FrontendState,
    GroupState,
    PoolState,
    WorkerLoad,
    WorkerState,
    WorkerStatus,
)
from tests.frontend.asking import numbers
from tests.frontend.conftest import MAKE_APP
from tests.frontend.fake_pool import FakePool, pool_state

STOPPED = 'headrace:request_success_total{engine="0",finished_reason="stop",model_name="smol"}'
QUESTION = {"messages": [{"role": "user", "content": "Hello"}]}


@pytest.mark.parametrize("path", ["/health", "/ping"])
@pytest.mark.parametrize(
    ("state", "status"),
    [("ready", 200), ("starting", 503), ("stalled", 503), ("draining", 503), (None, 503)],
)
async def test_health_is_that_of_the_workers(
    client: Client, pool: FakePool, path: str, state: WorkerStatus | None, status: int
) -> None:
    pool.state = None if state is None else pool_state(state)
    response = await client.get(path)
    assert response.status_code == status
    assert await response.get_data() == b""


async def test_ping_takes_post(client: Client) -> None:
    assert (await client.post("/ping")).status_code == 200


@pytest.mark.parametrize(
    ("state", "status", "overall"),
    [
        ("ready", 200, "ready"),
        ("starting", 503, "unavailable"),
        ("stalled", 503, "unavailable"),
        (None, 503, "unavailable"),
    ],
)
async def test_verbose_health_names_groups_and_workers(
    client: Client, pool: FakePool, state: WorkerStatus | None, status: int, overall: str
) -> None:
    pool.state = None if state is None else verbose_state(state)
    response = await client.get("/health?verbose")
    assert response.status_code == status
    body = await response.get_json()
    assert body["status"] == overall
    (group,) = body["groups"]
    assert (group["name"], group["models"]) == ("main", ["smol", "smol-alias"])
    assert (group["ready"], group["wanted"]) == (1 if state == "ready" else 0, 1)
    assert group["status"] == overall
    assert group["kv_cache_dtype"] == "auto"
    assert "/secret" not in json.dumps(body)
    if state is not None:
        assert group["is_crash_loop"]
        assert group["workers"] == [
            {
                "name": "main-0.3",
                "state": state,
                "is_paused": False,
                "running": 2,
                "waiting": 5,
                "steps": 7,
                "last_step_age_s": 0.25,
                "restarts": 3,
            }
        ]


async def test_health_is_degraded_while_a_worker_is_missing(
    make_app: MAKE_APP, pool: FakePool
) -> None:
    pool.state = verbose_state("ready", "stalled")
    response = await make_app(workers=2).test_client().get("/health?verbose")
    assert response.status_code == 200
    body = await response.get_json()
    assert body["status"] == body["groups"][0]["status"] == "degraded"


async def test_a_process_that_answers_is_live_whatever_the_pool_is(
    client: Client, pool: FakePool
) -> None:
    pool.state = None
    response = await client.get("/livez")
    assert response.status_code == 200
    assert await response.get_data() == b""


async def test_verbose_load_tells_of_groups_workers_and_frontends(
    client: Client, pool: FakePool
) -> None:
    pool.state = verbose_state("ready", "starting")
    assert await (await client.get("/load")).get_json() == {"server_load": 0}
    body = await (await client.get("/load?verbose=1")).get_json()
    assert body["server_load"] == 0
    assert body["frontends"] == [{"name": "frontend-0.0", "in_flight": 4}]
    (group,) = body["groups"]
    assert (group["name"], group["running"], group["waiting"]) == ("main", 4, 10)
    assert group["workers"][0] == {
        "name": "main-0.3",
        "state": "ready",
        "running": 2,
        "waiting": 5,
        "kv_cache_usage": 0.5,
    }


def verbose_state(*states: WorkerStatus) -> PoolState:
    """A pool whose group has failed for a reason that is nobody's business."""
    load = WorkerLoad(running=2, waiting=5, kv_usage=0.5, steps=7, step_age_s=0.25)
    workers = tuple(
        WorkerState(f"main-{slot}.3", "main", 1, state, "", load)
        for slot, state in enumerate(states)
    )
    frontends = (FrontendState("frontend-0.0", 2, FrontendLoad(4)),)
    group = GroupState("main", len(states), "/secret is gone")
    return PoolState("epoch", 1, (group,), workers, frontends)


@pytest.mark.parametrize(
    ("wanted", "problem", "status", "overall"),
    [
        (0, "", 200, "ready"),
        (1, "", 200, "degraded"),  # the first one starts
        (1, "main-0: 3 in a row have failed", 503, "unavailable"),
    ],
)
async def test_health_of_a_group_that_may_have_no_worker(
    client: Client, pool: FakePool, wanted: int, problem: str, status: int, overall: str
) -> None:
    group = GroupState("main", wanted, problem, starts_on_demand=True)
    pool.state = PoolState("epoch", 1, (group,), (), ())
    assert (await client.get("/health")).status_code == status
    body = await (await client.get("/health?verbose")).get_json()
    assert (body["status"], body["groups"][0]["wanted"]) == (overall, wanted)


class TestStopping:
    async def test_what_was_begun_is_finished_and_nothing_else_is_begun(
        self, stopping: tuple[Client, FakePool, Drain]
    ) -> None:
        client, pool, drain = stopping
        pool.hold_after = 1
        begun = asyncio.create_task(client.post("/v1/chat/completions", json=QUESTION))
        await pool.wait_for_streams(1)
        end = asyncio.create_task(drain.finish(5))
        await asyncio.sleep(0)
        for path, status in (("/health", 503), ("/ping", 503), ("/livez", 200), ("/load", 200)):
            response = await client.get(path)
            assert (path, response.status_code) == (path, status)
            assert response.headers["Connection"] == "close"
        body = await (await client.get("/health?verbose")).get_json()
        assert body["status"] == "stopping"
        rejected = await client.post("/v1/chat/completions", json=QUESTION)
        found = numbers(await (await client.get("/metrics")).get_data(as_text=True))
        assert found['headrace:requests_refused_total{reason="stopping"}'] == 1
        assert rejected.status_code == 503
        assert rejected.headers["Retry-After"] == "1"
        assert not end.done()
        pool.release.set()
        assert (await begun).status_code == 200
        assert await end > 0

    async def test_the_time_to_finish_is_bounded(
        self, stopping: tuple[Client, FakePool, Drain]
    ) -> None:
        client, pool, drain = stopping
        pool.hold_after = 1
        begun = asyncio.create_task(client.post("/v1/chat/completions", json=QUESTION))
        await pool.wait_for_streams(1)
        assert await drain.finish(0.05) <= LAST_WORDS_S
        answer = await begun
        assert answer.status_code == 503
        assert answer.headers["Retry-After"] == "1"
        assert "stopping" in (await answer.get_json())["error"]["message"]
        assert pool.streams[0].cancelled

    async def test_a_stream_that_is_not_finished_in_time_ends_with_one_error(
        self, stopping: tuple[Client, FakePool, Drain]
    ) -> None:
        client, pool, drain = stopping
        pool.hold_after = 2
        asked = client.post("/v1/chat/completions", json={**QUESTION, "stream": True})
        begun = asyncio.create_task(asked)
        await pool.wait_for_streams(1)
        await asyncio.sleep(0.05)
        await drain.finish(0)
        events = (await (await begun).get_data(as_text=True)).strip().split("\n\n")
        assert (await begun).status_code == 200
        assert events[-1] == "data: [DONE]"
        errors = [event for event in events if '"error"' in event]
        assert errors == [events[-2]]
        assert '"code":503' in errors[0]

    @pytest.mark.parametrize("n", [1, 2])
    async def test_a_beam_search_that_is_not_finished_in_time(
        self, stopping: tuple[Client, FakePool, Drain], n: int
    ) -> None:
        client, pool, drain = stopping
        pool.hold_after = 0
        fields = {"prompt": "Hello", "n": n, "use_beam_search": True, "max_tokens": 3}
        begun = asyncio.create_task(client.post("/v1/completions", json=fields))
        await pool.wait_for_streams(1)
        await drain.finish(0)
        assert (await begun).status_code == 503

    async def test_what_runs_in_the_background_is_not_interrupted(
        self, stopping: tuple[Client, FakePool, Drain]
    ) -> None:
        client, pool, drain = stopping
        pool.hold_after = 1
        asked = {"input": "Hello", "background": True}
        begun = await (await client.post("/v1/responses", json=asked)).get_json()
        await pool.wait_for_streams(1)
        await drain.finish(0)
        assert not pool.streams[0].cancelled
        pool.release.set()
        events = await client.get(f"/v1/responses/{begun['id']}?stream=true")
        assert "event: response.completed" in await events.get_data(as_text=True)

    async def test_what_begins_when_the_time_is_over_is_interrupted_at_once(self) -> None:
        drain = Drain()
        request = drain.begin_request()
        await drain.finish(0)
        calls: list[bool] = []
        drain.watch(lambda: calls.append(True))()
        assert calls == [True]
        drain.end_request(request)

    async def test_nothing_to_finish_is_no_wait(
        self, stopping: tuple[Client, FakePool, Drain]
    ) -> None:
        _, _, drain = stopping
        assert await asyncio.wait_for(drain.finish(60), 1) > 59

    @pytest.fixture
    def stopping(self, make_app: MAKE_APP, pool: FakePool) -> tuple[Client, FakePool, Drain]:
        drain = Drain()
        return make_app(drain=drain).test_client(), pool, drain


async def test_version(client: Client) -> None:
    body = await (await client.get("/version")).get_json()
    assert body == {"version": version("headrace")}


async def test_models_have_all_their_names_and_no_path(client: Client) -> None:
    response = await client.get("/v1/models")
    text = await response.get_data(as_text=True)
    cards = json.loads(text)["data"]
    assert [card["id"] for card in cards] == ["smol", "smol-alias"]
    assert {card["root"] for card in cards} == {"smol"}
    assert cards[0]["owned_by"] == "headrace"
    assert cards[0]["max_model_len"] == 2048
    assert "/secret" not in text
    one = await (await client.get("/v1/models/smol-alias")).get_json()
    assert one == cards[1]


@pytest.mark.parametrize(
    ("given", "root"),
    [
        ("HuggingFaceTB/SmolLM2-135M-Instruct", "HuggingFaceTB/SmolLM2-135M-Instruct"),
        ("/home/me/models/x", "name"),
        ("models/x.gguf", "name"),
        ("./x", "name"),
        ("~/x", "name"),
        ("C:\\models\\x", "name"),
        ("a/b/c", "name"),
        ("models/here", "name"),
    ],
)
def test_only_hub_ids_are_shown_as_roots(
    given: str, root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "models" / "here").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    group = GroupConfig(
        name="g",
        model=given,
        model_path=Path("/cache/x"),
        text_path=Path("/cache/x"),
        served_names=("name",),
    )
    config = PoolConfig(run_dir=Path("/run"), groups=(group,))
    assert served_models(config, {"g": cast(ModelTokenizer, None)})["name"].root == root


async def test_answers_name_the_model_as_the_request_does(client: Client) -> None:
    response = await client.post("/v1/chat/completions", json={**QUESTION, "model": "smol-alias"})
    assert (await response.get_json())["model"] == "smol-alias"


async def test_tokenize_and_detokenize_are_each_others_inverse(client: Client) -> None:
    fields = {"prompt": "Hello 你好 <|im_end|>", "return_token_strs": True}
    body = await (await client.post("/tokenize", json=fields)).get_json()
    assert body["count"] == len(body["tokens"]) == len(body["token_strs"])
    assert body["token_strs"][-1] == "<|im_end|>"
    back = await client.post("/detokenize", json={"tokens": body["tokens"]})
    assert (await back.get_json())["prompt"] == fields["prompt"]


async def test_tokenize_a_chat_as_it_would_be_run(client: Client, pool: FakePool) -> None:
    await client.post("/v1/chat/completions", json=QUESTION)
    body = await (await client.post("/tokenize", json=QUESTION)).get_json()
    assert body["tokens"] == list(pool.requests[0].prompt_token_ids)
    assert body["token_strs"] is None


async def test_long_texts_are_tokenized_alike(client: Client, text: ModelTokenizer) -> None:
    long = "The capital of France is Paris. " * 500
    body = await (await client.post("/tokenize", json={"prompt": long})).get_json()
    assert body["tokens"] == text.backend.encode(long).ids
    back = await client.post("/detokenize", json={"tokens": body["tokens"]})
    assert (await back.get_json())["prompt"] == long


@pytest.mark.parametrize("token", [-1, 10**6, 10**30])
async def test_detokenize_takes_only_ids_of_the_vocabulary(client: Client, token: int) -> None:
    response = await client.post("/detokenize", json={"tokens": [5, token]})
    assert response.status_code == 400
    assert (await response.get_json())["error"]["param"] == "tokens"


async def test_the_tokenizers_description_is_off_by_default(
    client: Client, make_app: MAKE_APP, text: ModelTokenizer
) -> None:
    assert (await client.get("/tokenizer_info")).status_code == 404
    shown = await make_app(enable_tokenizer_info=True).test_client().get("/tokenizer_info")
    body = await shown.get_json()
    assert body["chat_template"] == text.info.chat_template
    assert "/secret" not in json.dumps(body)


async def test_the_description_of_the_api(client: Client) -> None:
    body = await (await client.get("/openapi.json")).get_json()
    paths = body["paths"]
    assert {"/v1/chat/completions", "/v1/completions", "/tokenize", "/health"} <= set(paths)
    schema = paths["/v1/chat/completions"]["post"]["requestBody"]["content"]["application/json"]
    assert "temperature" in json.dumps(schema)
    assert "max_completion_tokens" in json.dumps(body)


async def test_every_operation_of_the_description_has_answers(client: Client) -> None:
    body = await (await client.get("/openapi.json")).get_json()
    operations = [
        (path, method, operation)
        for path, methods in body["paths"].items()
        for method, operation in methods.items()
    ]
    assert len(operations) >= 12
    for path, method, operation in operations:
        assert operation["responses"], (path, method)
        for status, answer in operation["responses"].items():
            assert 200 <= int(status) < 600
            assert answer["description"], (path, method, status)


async def test_the_docs_page_and_all_it_loads_come_from_here(client: Client) -> None:
    page = await (await client.get("/docs")).get_data(as_text=True)
    assert not re.search(r"(https?:)?//\w", page)
    loaded = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert len(loaded) == 3
    for address in loaded:
        response = await client.get(f"/{address}")
        assert response.status_code == 200
        assert len(await response.get_data()) > 100
    assert (await client.get("/docs/assets/swagger-editor.css")).status_code == 404
