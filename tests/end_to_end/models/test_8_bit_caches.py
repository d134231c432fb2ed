"""Keys and values of 8 bits in real processes: a text is the same however its tokens came about."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from headrace.frontend.pool.routing import AFFINITY_TOKENS
from tests.chaos.models import ADAPTER, SERVED_AS, model_flags, save_chaos_adapter, save_chaos_model
from tests.end_to_end.servers import Server, kill_workers, wait_for
from tests.end_to_end.streams import StreamedChat, chats

MODELS = (SERVED_AS, ADAPTER)
QUESTION = [5 + number % 200 for number in range(AFFINITY_TOKENS + 44)]
LENGTH = 600  # tokens of a text, so that a worker dies before it has generated all of them


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_chaos_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module", params=["int8", "fp8"])
def server(
    request: pytest.FixtureRequest,
    model: Path,
    tmp_path_factory: pytest.TempPathFactory,
    cache_dir: Path,
) -> Iterator[Server]:
    adapter = save_chaos_adapter(tmp_path_factory.mktemp("a") / "a", model, "tiny")
    pool = ["--workers", "2", "--frontends", "1", "--enable-admin"]
    lora = ["--enable-lora", "--lora-modules", f"{ADAPTER}={adapter}"]
    flags = [*model_flags(model, "tiny"), *pool, *lora, "--kv-cache-dtype", request.param]
    server = Server(flags, cache_dir)
    line = f"tokens in {request.param}\n"
    wait_for(lambda: server.log.count(line) == 2, "both workers have the cache")
    yield server
    assert server.stop() == 0


def ask(server: Server, prompt: list[int], model: str) -> tuple[list[int], int]:
    """The answer, and how many tokens of the prompt were found in the cache."""
    body = {"model": model, "prompt": prompt, "max_tokens": 40, "temperature": 0}
    body |= {"ignore_eos": True, "return_token_ids": True}
    answer = server.client.post("/v1/completions", json=body)
    assert answer.status_code == 200, answer.text
    found = answer.json()
    details = found["usage"]["prompt_tokens_details"]
    return found["choices"][0]["token_ids"], details["cached_tokens"]


def post(server: Server, path: str) -> None:
    answer = server.client.post(path)
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize("name", MODELS)
def test_a_second_turn_finds_the_first(server: Server, name: str) -> None:
    post(server, "/reset_prefix_cache")
    first, found = ask(server, QUESTION, name)
    assert found == 0
    prompt = [*QUESTION, *first, *range(100, 120)]
    second, found = ask(server, prompt, name)
    assert found > len(QUESTION) + 16
    post(server, "/reset_prefix_cache")
    assert ask(server, prompt, name) == (second, 0)


def test_after_sleep(server: Server) -> None:
    expected = [ask(server, QUESTION, model)[0] for model in MODELS]
    assert expected[0] != expected[1]
    post(server, "/sleep?level=1")
    post(server, "/wake_up")
    assert [ask(server, QUESTION, model) for model in MODELS] == [(text, 0) for text in expected]


def test_a_text_goes_on_where_its_worker_has_died(server: Server) -> None:
    requests = [
        {
            "model": model,
            "messages": [{"role": "user", "content": f"{number} says hello"}],
            "max_tokens": LENGTH,
            "temperature": 0,
            "ignore_eos": True,
        }
        for number in range(4)
        for model in MODELS
    ]
    expected = chats(server, requests)
    before = server.metric("headrace:request_replays_total")
    killed = False

    def kill(streamed: list[StreamedChat]) -> None:
        nonlocal killed
        if not killed and min(len(each.token_ids) for each in streamed) > LENGTH // 10:
            killed = True
            kill_workers(server)

    assert chats(server, requests, kill) == expected
    assert server.metric("headrace:request_replays_total") > before
