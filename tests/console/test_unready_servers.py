"""Operators' commands on servers that cannot serve, are not Headrace, or are not there."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from headrace.frontend.admin.health import health_body
from headrace.protocol.config import GroupConfig, PoolConfig
from headrace.protocol.state import GroupState, PoolState, ReloadState

SCRIPT = Path(__file__).parents[2] / "scripts/pool.sh"
COMMANDS = [
    ["status"],
    ["sleep"],
    ["wake"],
    ["drain", "chat-0"],
    ["pause"],
    ["resume"],
    ["scale", "2"],
    ["models"],
    ["load", "name", "/path"],
    ["unload", "name"],
]
FOREIGN = {
    "another server": (200, b'{"status": "ok"}'),
    "models of another kind": (200, b'{"data": [1, 2]}'),
    "workers of another kind": (200, b'{"workers": [1]}'),
    "groups of another kind": (503, b'{"status": "x", "groups": [{"workers": 1}]}'),
    "a list": (200, b"[]"),
    "a proxy's error": (502, b"<html>Bad Gateway</html>"),
    "a web page": (200, b"<html>Welcome</html>"),
    "deep": (200, b'{"groups":' * 9 + b"1" + b"}" * 9),
    "an unknown error": (500, b'{"oops": 1}'),
}


@contextmanager
def stand_in(status: int, body: bytes) -> Iterator[str]:
    """A server that answers everything alike; its URL."""

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = answer

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def run(command: list[str], url: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"HEADRACE_URL": url, "PYTHON": sys.executable}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)


def top() -> list[str]:
    return [str(Path(sys.executable).with_name("headrace")), "top", "--once"]


def starting_pool() -> bytes:
    """What /health?verbose says of a pool without workers."""
    group = GroupConfig(
        name="chat",
        model="m",
        model_path=Path("/m"),
        text_path=Path("/t"),
        served_names=("m",),
        workers=2,
    )
    config = PoolConfig(run_dir=Path("/r"), groups=(group,))
    reload = ReloadState(3, "failed", "chat-0", "chat-0.0", "", "no worker became ready")
    state = PoolState("e", 1, (GroupState("chat", 2, ""),), (), (), reload)
    return json.dumps(health_body(config, state, stopping=False)).encode()


@pytest.mark.parametrize("command", COMMANDS, ids=lambda words: words[0])
def test_a_server_that_is_not_there(command: list[str]) -> None:
    done = run([str(SCRIPT), *command], "http://127.0.0.1:1")
    assert done.returncode == 1
    assert "curl" in done.stderr


@pytest.mark.parametrize("kind", FOREIGN)
def test_a_server_that_is_another(kind: str) -> None:
    with stand_in(*FOREIGN[kind]) as url:
        for command in ([str(SCRIPT), "status"], top()):
            done = run(command, url)
            assert done.returncode == 1, (command, done.stdout)
            told = done.stdout + done.stderr
            assert "Traceback" not in told
            assert "this server" in told
            assert "{" not in told


@pytest.mark.parametrize("command", COMMANDS, ids=lambda words: words[0])
def test_no_command_breaks_at_another_server(command: list[str]) -> None:
    with stand_in(503, b"<html>Unavailable</html>") as url:
        done = run([str(SCRIPT), *command], url)
        assert done.returncode == 1
        assert "not one of this server" in done.stderr


def test_status_of_a_pool_that_cannot_serve_is_its_table() -> None:
    with stand_in(503, starting_pool()) as url:
        done = run([str(SCRIPT), "status"], url)
    assert done.returncode == 1
    assert "unavailable" in done.stdout
    assert "chat: 0 of 2 workers ready" in done.stdout
    assert "reload 3: failed, old chat-0.0, reason no worker became ready" in done.stdout
    assert "{" not in done.stdout + done.stderr
    assert "the pool is unavailable (status 503)" in done.stderr
