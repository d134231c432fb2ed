"""How requests are spread over workers by several frontends."""

import contextlib
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from headrace.frontend.pool.shared_load import ROWS
from tests.end_to_end.servers import Launch, Server, wait_for

WORKERS = 4
PREFIX_TOKENS = 512
SUFFIX_TOKENS = 16


@pytest.fixture(scope="module")
def server(launch: Launch) -> Server:
    return launch("--workers", str(WORKERS), "--frontends", "4", step_s=0.01)


def looked_up(server: Server, workers: int = WORKERS) -> list[float]:
    """The prompt tokens of all requests that each worker has begun."""
    name = "headrace:prefix_cache_queries_total"
    return [server.metric(name, engine=str(number)) for number in range(workers)]


def ask(server: Server, prompt: list[int], tokens: int, after_s: float = 0.0) -> None:
    time.sleep(after_s)
    body = {"prompt": prompt, "max_tokens": tokens, "ignore_eos": True}
    httpx.post(f"{server.url}/v1/completions", json=body, timeout=60).raise_for_status()


@pytest.mark.parametrize("spread_s", [0.0, 1.0])
def test_a_burst_of_equal_requests_is_spread_evenly(server: Server, spread_s: float) -> None:
    """None ends before the last has come, so that each worker has as many as it got."""
    requests, prompt = 64, [5, 6, 7, 8]
    before = looked_up(server)
    with ThreadPoolExecutor(requests) as threads:
        delays = [spread_s * number / requests for number in range(requests)]
        list(threads.map(lambda delay: ask(server, prompt, 600, delay), delays))
    after = sum(before) + requests * len(prompt)
    wait_for(lambda: sum(looked_up(server)) == after, "all counted")
    differences = zip(looked_up(server), before, strict=True)
    got = [(now - then) / len(prompt) for now, then in differences]
    assert max(got) - min(got) <= 2, got


def ask_with_shared_prefixes(server: Server, workers: int) -> tuple[float, list[float]]:
    """240 requests of 32 users with 8 prefixes, some far more popular than others. If all workers
    computed all prefixes, as without affinity, fewer hits were found than the test asks for.

    Returns the share of prompt tokens that were found in caches, and how many requests each worker
    served. They are equally long.
    """
    rng = random.Random(5)
    prefixes = [[rng.randrange(5, 200) for _ in range(PREFIX_TOKENS)] for _ in range(8)]
    chosen = rng.choices(prefixes, [1 / (rank + 1) for rank in range(8)], k=240)
    prompts = [[*one, *(rng.randrange(5, 200) for _ in range(SUFFIX_TOKENS))] for one in chosen]
    hits, queries = server.metric("headrace:prefix_cache_hits_total"), looked_up(server, workers)
    with ThreadPoolExecutor(32) as threads:
        list(threads.map(lambda prompt: ask(server, prompt, 80), prompts))
    served = [now - then for now, then in zip(looked_up(server, workers), queries, strict=True)]
    hits = server.metric("headrace:prefix_cache_hits_total") - hits
    return hits / sum(served), [tokens / (PREFIX_TOKENS + SUFFIX_TOKENS) for tokens in served]


def test_shared_prefixes_are_found_and_popular_ones_do_not_fill_one_worker(
    launch: Launch, server: Server
) -> None:
    """Load is requests served in the whole run, which with equal requests is also tokens."""
    one = launch("--workers", "1", "--frontends", "1", step_s=0.01)
    alone, _ = ask_with_shared_prefixes(one, 1)
    hit_rate, served = ask_with_shared_prefixes(server, WORKERS)
    print(f"hits {hit_rate:.3f}, alone {alone:.3f}, served {served}")
    assert hit_rate >= 0.9 * alone, (hit_rate, alone)
    assert max(served) <= 1.25 * sum(served) / WORKERS, served


def shared_counts(server: Server) -> list[int]:
    """What all frontends have published of their requests in flight, by worker."""
    files = sorted((server.run_dir / "load" / "workers").iterdir())
    return [sum(memoryview(file.read_bytes()).cast("q")) for file in files]


def test_nothing_is_counted_when_all_is_done(server: Server) -> None:
    with ThreadPoolExecutor(16) as threads:
        list(threads.map(lambda _: ask(server, [5, 6, 7], 20), range(16)))
    wait_for(lambda: shared_counts(server) == [0] * WORKERS, "no request in flight")


def rows_taken(server: Server) -> int:
    rows = memoryview((server.run_dir / "load" / "frontends").read_bytes()).cast("q")
    return sum(seen_at > 0 for seen_at in rows[:ROWS])


def hold_stream(server: Server, until: threading.Event) -> None:
    """A stream whose client hangs up a moment after an event, if it has not broken by then."""
    body = {"prompt": [5, 6, 7], "max_tokens": 2000, "ignore_eos": True, "stream": True}
    url = f"{server.url}/v1/completions"
    with contextlib.suppress(httpx.TransportError), httpx.stream("POST", url, json=body) as answer:
        lines = answer.iter_lines()  # held, as its end would close the stream
        next(lines)
        until.wait(30)
        time.sleep(0.5)


def test_requests_of_a_killed_frontend_are_counted_no_more(launch: Launch) -> None:
    """Nor are those of a worker that is killed with it, or of clients that have gone."""
    server = launch("--workers", "2", "--frontends", "2", step_s=0.01)
    is_struck = threading.Event()
    with ThreadPoolExecutor(8) as threads:
        streams = [threads.submit(hold_stream, server, is_struck) for _ in range(8)]
        wait_for(lambda: sum(shared_counts(server)) == 8, "all begun")
        server.children("headrace.frontend.main")[0].kill()
        server.children("headrace.workers.main")[0].kill()
        is_struck.set()
        for stream in streams:
            stream.result()
    wait_for(lambda: sum(shared_counts(server)) == 0, "no request in flight")
    wait_for(lambda: rows_taken(server) == 2, "the successor has the row")
