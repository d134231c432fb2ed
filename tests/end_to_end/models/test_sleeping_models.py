"""Sleep and wake of real models: what memory comes back, and that the text stays the same."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil
import pytest

from tests.chaos.models import model_flags, save_chaos_model
from tests.end_to_end.servers import Server, wait_for

CACHE_BYTES = 256 * 2**20


@pytest.fixture(scope="module")
def smollm2(cache_dir: Path) -> Iterator[Server]:
    cache = ["--kv-cache-memory-bytes", str(CACHE_BYTES), "--max-model-len", "2048"]
    server = Server(["--dtype", "float32", "--enable-admin", "--frontends", "1", *cache], cache_dir)
    yield server
    assert server.stop() == 0


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory, cache_dir: Path) -> Iterator[Server]:
    folder = save_chaos_model(tmp_path_factory.mktemp("models") / "tiny")
    pool = ["--workers", "2", "--frontends", "2", "--enable-admin"]
    server = Server([*model_flags(folder, "tiny"), *pool], cache_dir)
    yield server
    assert server.stop() == 0


def ask(server: Server, prompt: str = "The sea is", tokens: int = 24) -> str:
    body = {"prompt": prompt, "max_tokens": tokens, "temperature": 0, "ignore_eos": True}
    answer = httpx.post(f"{server.url}/v1/completions", json=body, timeout=120)
    assert answer.status_code == 200, answer.text
    found: str = answer.json()["choices"][0]["text"]
    return found


def post(server: Server, path: str) -> None:
    answer = httpx.post(f"{server.url}{path}", timeout=120)
    assert answer.status_code == 200, answer.text


def resident_bytes(server: Server) -> int:
    (worker,) = server.children("headrace.workers.main")
    return psutil.Process(worker.pid).memory_info().rss


def fill_cache(server: Server) -> None:
    """Long prompts, none of which begins like another: their keys and values stay in the cache."""
    for number in range(6):
        ask(server, f"{number} " + "the quick brown fox jumps over the lazy dog " * 60, 2)


def test_memory_is_given_back_and_the_text_is_the_same(smollm2: Server) -> None:
    text = ask(smollm2)
    fill_cache(smollm2)
    awake = resident_bytes(smollm2)
    post(smollm2, "/sleep?level=1")
    light = resident_bytes(smollm2)
    assert awake - light > CACHE_BYTES / 3, (awake, light)
    post(smollm2, "/sleep?level=2")
    deep = resident_bytes(smollm2)
    weights = 134_515_008 * 4
    assert light - deep > 0.9 * weights, (light, deep)
    assert ask(smollm2) == text  # wakes it
    assert resident_bytes(smollm2) < awake
    post(smollm2, "/sleep?level=1")
    assert ask(smollm2) == text


def test_cycles_at_both_levels_under_traffic(tiny: Server) -> None:
    """Fewer than of the fake engine (test_sleeping.py): each loads the weights again."""
    prompts = [f"{number} says the dog" for number in range(4)]
    texts = {prompt: ask(tiny, prompt, 60) for prompt in prompts}
    over = threading.Event()

    def user(prompt: str) -> int:
        count = 0
        while not over.is_set():
            assert ask(tiny, prompt, 60) == texts[prompt]
            count += 1
        return count

    with ThreadPoolExecutor(4) as threads:
        users = [threads.submit(user, prompt) for prompt in prompts]
        try:
            for cycle in range(20):
                post(tiny, f"/sleep?level={1 + cycle % 2}")
                post(tiny, "/wake_up")
        finally:
            over.set()
        assert sum(each.result() for each in users) > 20
    assert {prompt: ask(tiny, prompt, 60) for prompt in prompts} == texts


def test_a_worker_that_dies_while_it_wakes_is_replaced(tiny: Server) -> None:
    text = ask(tiny)
    post(tiny, "/sleep?level=2")
    before = tiny.log.count(" waking\n")
    with ThreadPoolExecutor(1) as threads:
        waking = threads.submit(httpx.post, f"{tiny.url}/wake_up", timeout=120)
        # Waking lasts less than a question to the pool would, so the log is watched.
        while tiny.log.count(" waking\n") == before and not waking.done():
            time.sleep(0.001)
        tiny.children("headrace.workers.main")[0].kill()
        assert ask(tiny) == text
        assert waking.result().status_code in (200, 500)
    wait_for(lambda: states(tiny) == ["ready", "ready"], "both are ready", 60)
    assert ask(tiny) == text


def states(server: Server) -> list[str]:
    body = server.get("/is_sleeping?verbose").json()
    return [worker["state"] for worker in body["workers"]]
