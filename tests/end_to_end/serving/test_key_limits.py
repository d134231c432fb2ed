"""Limits of keys over two real frontends, one of which is killed; and tenants' caches."""

import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.end_to_end.servers import NO_CERTIFICATES, Launch, Server, wait_for

KEYS = {name: f"{name}-secret-0123456789" for name in ("ann", "bob", "cat", "eve")}
LIMIT = 60


def key_file(path: Path, **limits: dict[str, int]) -> None:
    """Write the file of all keys; these have limits."""
    lines = []
    for name, secret in KEYS.items():
        lines += ["[[keys]]", f'name = "{name}"', f'key = "{secret}"']
        given = ", ".join(f"{limit} = {value}" for limit, value in limits.get(name, {}).items())
        lines += [f"limits = {{ {given} }}"]
    path.write_text("\n".join(lines) + "\n")


class Pool:
    """A pool with keys. file: of the keys."""

    def __init__(self, server: Server, file: Path) -> None:
        self.server, self.file = server, file

    def chat(self, key: str, **fields: Any) -> httpx.Response:
        """The answer to a chat, on a connection of its own, so that any frontend may have it."""
        message = {"role": "user", "content": "Hello"}
        body = {"messages": [message], "max_tokens": 2, **fields}
        headers = {"Authorization": f"Bearer {KEYS[key]}"}
        with httpx.Client(base_url=self.server.url, timeout=60, verify=NO_CERTIFICATES) as client:
            return client.post("/v1/chat/completions", json=body, headers=headers)

    def chats(self, keys: list[str], **fields: Any) -> dict[str, list[int]]:
        """The statuses of many chats at once, by key."""
        with ThreadPoolExecutor(16) as threads:
            answers = threads.map(lambda key: (key, self.chat(key, **fields).status_code), keys)
            found: dict[str, list[int]] = {}
            for key, status in answers:
                found.setdefault(key, []).append(status)
        return found


@pytest.fixture(scope="module")
def pool(launch: Launch, tmp_path_factory: pytest.TempPathFactory) -> Pool:
    file = tmp_path_factory.mktemp("keys") / "keys.toml"
    of_requests = {"requests_per_minute": LIMIT}
    key_file(file, ann=of_requests, bob=of_requests, cat={"max_requests": 3})
    flags = ("--frontends", "2", "--workers", "1", "--api-key-file", str(file), "--public-metrics")
    return Pool(launch(*flags, step_s=0.005), file)


def test_two_frontends_take_exactly_the_limit_of_each_key(pool: Pool) -> None:
    started = time.monotonic()
    found = pool.chats(["ann", "bob"] * 100)
    most = LIMIT * (1 + (time.monotonic() - started) / 60)
    for statuses in found.values():
        assert set(statuses) == {200, 429}
        assert LIMIT <= statuses.count(200) <= most


def frontends(pool: Pool) -> set[int]:
    return {each.pid for each in pool.server.children("headrace.frontend.main")}


def check_that_bob_is_full(pool: Pool, since: float) -> None:
    """Of many requests no more are taken than the time since then allows."""
    statuses = pool.chats(["bob"] * 80)["bob"]
    assert statuses.count(200) <= LIMIT * (time.monotonic() - since) / 60 + 1
    assert statuses.count(429) > 10


def test_a_killed_frontend_does_not_begin_the_minute_anew(pool: Pool) -> None:
    while pool.chat("bob").status_code == 200:
        pass
    started, before = time.monotonic(), frontends(pool)
    killed = pool.server.children("headrace.frontend.main")[0]
    killed.kill()
    wait_for(lambda: len(frontends(pool) - {killed.pid}) == len(before), "another frontend")
    check_that_bob_is_full(pool, started)


def test_a_rolling_restart_does_not_begin_the_minute_anew(pool: Pool) -> None:
    while pool.chat("bob").status_code == 200:
        pass
    started, before = time.monotonic(), frontends(pool)
    pool.server.process.send_signal(signal.SIGHUP)
    wait_for(
        lambda: len(frontends(pool)) == len(before) and not frontends(pool) & before,
        "other frontends",
        timeout_s=120.0,
    )
    check_that_bob_is_full(pool, started)


def test_a_killed_frontends_requests_at_once_are_given_back(pool: Pool) -> None:
    """Long requests fill the limit in both frontends; then one of these dies."""
    long = {"max_tokens": 2000, "ignore_eos": True, "stream": True}
    headers = {"Authorization": f"Bearer {KEYS['cat']}"}
    body = {"messages": [{"role": "user", "content": "Hello"}], **long}
    clients = [
        httpx.Client(base_url=pool.server.url, timeout=60, verify=NO_CERTIFICATES) for _ in range(3)
    ]
    streams = [
        client.stream("POST", "/v1/chat/completions", json=body, headers=headers)
        for client in clients
    ]
    try:
        for stream in streams:
            assert stream.__enter__().status_code == 200
        assert pool.chat("cat").status_code == 429
        for frontend in pool.server.children("headrace.frontend.main"):
            frontend.kill()
        wait_for(lambda: answers(pool, "cat"), "an answer after the frontends' death")
        assert pool.chats(["cat"] * 3)["cat"].count(200) >= 1
    finally:
        for client in clients:
            client.close()


def answers(pool: Pool, key: str) -> bool:
    try:
        return pool.chat(key).status_code == 200
    except httpx.HTTPError:
        return False


def test_changed_limits_hold_without_a_restart(pool: Pool) -> None:
    assert set(pool.chats(["eve"] * 10)["eve"]) == {200}
    key_file(pool.file, eve={"requests_per_minute": 5})
    wait_for(lambda: "x-ratelimit-limit-requests" in pool.chat("eve").headers, "the changed limit")
    time.sleep(1.0)  # until both frontends have read it
    statuses = pool.chats(["eve"] * 20)["eve"]
    assert 429 in statuses
    assert statuses.count(200) <= 5
    key_file(pool.file)
    wait_for(lambda: set(pool.chats(["eve"] * 4)["eve"]) == {200}, "no limit")


def test_a_tenant_finds_nothing_that_another_has_put_into_the_cache(pool: Pool) -> None:
    message = {"role": "user", "content": "the same long beginning " * 40}

    def cached(key: str) -> int:
        usage = pool.chat(key, messages=[message]).json()["usage"]
        return int(usage["prompt_tokens_details"]["cached_tokens"])

    assert cached("ann") == 0
    assert cached("ann") > 0
    assert cached("eve") == 0
    assert cached("eve") > 0
