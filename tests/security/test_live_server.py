"""Attacks on a real pool: its processes live on, and their memory stays as it was."""

import socket
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest

from tests.end_to_end.conftest import cache_dir as cache_dir
from tests.end_to_end.servers import Server
from tests.security.leaks import leak_in
from tests.security.request_fields import USER
from tests.security.test_bad_grammars import BAD

MORE_BYTES = 64 * 1024 * 1024  # of a header; a server that kept it all would have grown by that


@pytest.fixture(scope="module")
def server(fake_model: Path, cache_dir: Path) -> Iterator[Server]:
    model = ["--model", str(fake_model), "--served-model-name", "fake", "--engine", "fake"]
    started = Server([*model, "--frontends", "1", "--workers", "1", "--enable-admin"], cache_dir)
    yield started
    assert started.stop() == 0


def resident(server: Server) -> dict[int, int]:
    """Bytes of each process of the pool, by pid."""
    return {each.pid: each.memory_info().rss for each in server.children()}


def test_cve_2025_48942_the_same_processes_live_on(server: Server) -> None:
    """CVE-2025-48942, CVE-2025-48943, CVE-2025-48944: a bad schema, regular expression or tool ends
    the engine."""
    before = {each.pid for each in server.children()}
    for _, fields in BAD:
        answer = server.client.post("/v1/chat/completions", json={"messages": [USER], **fields})
        assert answer.status_code == 400, answer.text
        assert not leak_in(answer.text)
    good = {"messages": [USER], "max_tokens": 3, "structured_outputs": {"regex": "[ab]{3}"}}
    assert server.client.post("/v1/chat/completions", json=good).status_code == 200
    assert {each.pid for each in server.children()} == before


@pytest.mark.parametrize("form", ["one value", "many names", "one name", "request line"])
def test_cve_2025_48956_a_header_without_end(server: Server, form: str) -> None:
    """CVE-2025-48956 (GHSA-rxc4-3w6r-4v47): a huge header is kept in memory."""
    assert server.get("/health").status_code == 200
    before = resident(server)
    beginning = b"GET / HTTP/1.1\r\nhost: x\r\n"
    pieces = {
        "one value": (beginning + b"x: ", b"y" * 65536),
        "many names": (beginning, b"x: y\r\n" * 10_000),
        "one name": (beginning, b"x" * 65536),
        "request line": (b"GET /", b"x" * 65536),
    }
    start, piece = pieces[form]
    url = urlsplit(server.url)
    assert url.hostname is not None
    received = b""
    with socket.create_connection((url.hostname, url.port or 0), timeout=20) as connection:
        try:
            connection.sendall(start)
            for _ in range(MORE_BYTES // len(piece)):
                connection.sendall(piece)
            received = connection.recv(65536)
        except OSError:  # it has closed, as it may
            pass
    assert received.startswith((b"HTTP/1.1 431", b"HTTP/1.1 400", b"HTTP/1.1 414")) or not received
    assert not leak_in(received.decode("latin1"))
    after = resident(server)
    assert after.keys() == before.keys()
    assert all(after[pid] - before[pid] < MORE_BYTES // 2 for pid in before)
    assert server.get("/health").status_code == 200


def test_cve_2026_34756_counts_cost_no_memory(server: Server) -> None:
    """CVE-2026-34756 (GHSA-3mwp-wvh9-7528): the process of a huge n grows until it is killed."""
    before = resident(server)
    for fields in ({"n": 2**31 - 1}, {"n": 10**300}, {"best_of": 10**12}):
        body = {"prompt": "Hi", "temperature": 1, **fields}
        assert server.client.post("/v1/completions", json=body).status_code == 400
    many = {"prompt": ["Hi"] * 1024, "n": 128, "temperature": 1}
    assert server.client.post("/v1/completions", json=many).status_code == 400
    after = resident(server)
    assert after.keys() == before.keys()
    assert all(after[pid] - before[pid] < 32 * 1024 * 1024 for pid in before)


def test_cve_2026_73555_what_a_pool_says_when_calls_fail(server: Server) -> None:
    """CVE-2026-73555: operators' calls that fail in coordinator and workers."""
    for path in (
        "/sleep?worker=nobody",
        "/pause?worker=fake-99",
        "/start_profile",
        "/collective_rpc",
        "/scale_elastic_ep",
        "/v1/load_lora_adapter",
        "/v1/unload_lora_adapter",
    ):
        body = {"lora_name": "a", "lora_path": "/nowhere"} if "lora" in path else {}
        answer = server.client.post(path, json=body)
        assert 400 <= answer.status_code < 500, (path, answer.text)
        assert not leak_in(answer.text.replace("/nowhere", ""))


def test_cve_2026_22778_a_store_on_a_full_or_read_only_disk(server: Server) -> None:
    """CVE-2026-22778: the database's path in an error. Its file is no database here."""
    database = server.run_dir / "responses.db"
    for file in server.run_dir.glob("responses.db*"):
        file.unlink()
    database.mkdir()
    try:
        answer = server.client.post("/v1/responses", json={"input": "Hi", "max_output_tokens": 3})
        assert answer.status_code == 503, answer.text
        assert not leak_in(answer.text)
    finally:
        database.rmdir()


def test_processes_are_still_there(server: Server) -> None:
    assert all(psutil.pid_exists(each.pid) for each in server.children())
    assert server.get("/health?verbose").json()["status"] == "ready"
