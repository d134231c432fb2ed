"""How requests are spread over workers, by frontends that do not talk to each other."""

import random
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from servers import Launch, Server, wait_for

PREFIX_TOKENS = 512


@pytest.fixture(scope="module")
def server(launch: Launch) -> Server:
    return launch("--workers", "4", "--frontends", "4", step_s=0.01)


def worker_values(server: Server, name: str) -> list[float]:
    return [server.metric(name, engine=str(number)) for number in range(4)]


def ask(server: Server, prompt: object, tokens: int) -> None:
    body = {"prompt": prompt, "max_tokens": tokens, "ignore_eos": True}
    httpx.post(f"{server.url}/v1/completions", json=body, timeout=60).raise_for_status()


def burst(server: Server) -> list[float]:
    """How many of 64 equal requests each worker got, by the prompt tokens that it has looked up."""
    looked_up = "headrace:prefix_cache_queries_total"
    prompt = [5, 6, 7, 8]
    before = worker_values(server, looked_up)
    with ThreadPoolExecutor(64) as threads:
        list(threads.map(lambda _: ask(server, prompt, 300), range(64)))
    after = sum(before) + 64 * len(prompt)
    wait_for(lambda: server.metric(looked_up) == after, "all counted")
    values = zip(worker_values(server, looked_up), before, strict=True)
    return [(now - then) / len(prompt) for now, then in values]


def test_a_burst_of_equal_requests_is_spread_evenly(server: Server) -> None:
    """Where other processes keep this one from sending them at once, it is no burst: so one of
    four has to be even, which by chance one in 28 is."""
    spreads = []
    while len(spreads) < 4:
        spreads.append(burst(server))
        if max(spreads[-1]) - min(spreads[-1]) <= 2:
            return
    raise AssertionError(spreads)


def hit_rate(server: Server) -> float:
    """Of 8 prefixes, some far more popular than others, by 16 users."""
    rng = random.Random(5)
    prefixes = [[rng.randrange(5, 200) for _ in range(PREFIX_TOKENS)] for _ in range(8)]
    names = [f"headrace:prefix_cache_{what}_total" for what in ("hits", "queries")]
    before = [server.metric(name) for name in names]
    chosen = rng.choices(prefixes, [1 / (rank + 1) for rank in range(8)], k=160)
    prompts = [[*prefix, *(rng.randrange(5, 200) for _ in range(16))] for prefix in chosen]
    with ThreadPoolExecutor(16) as threads:
        list(threads.map(lambda prompt: ask(server, prompt, 8), prompts))
    hits, queries = (server.metric(name) - b for name, b in zip(names, before, strict=True))
    return hits / queries


def test_shared_prefixes_are_found_and_popular_ones_do_not_fill_one_worker(
    launch: Launch, server: Server
) -> None:
    alone = hit_rate(launch("--workers", "1", "--frontends", "1", step_s=0.01))
    assert hit_rate(server) >= 0.9 * alone
