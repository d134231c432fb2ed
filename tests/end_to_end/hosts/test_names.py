"""A host whose name servers are absent, or never answer."""

import socket
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from tests.end_to_end.clients import clients
from tests.end_to_end.servers import Launch, Server

pytest.importorskip("mcp")

BIND = 'mount --make-rprivate / && mount --bind "$0" /etc/resolv.conf && exec "$@"'
TOOLS, STORED, OTHERS = 8, 2, 2
REQUEST = {"model": "fake", "input": "hello", "max_output_tokens": 2, "store": False}
MCP = {"type": "mcp", "server_label": "tools", "server_url": "http://tools.invalid/mcp"}
MCP["require_approval"] = "never"


@pytest.fixture
def silence() -> Iterator[str]:
    """The address of a name server that never answers."""
    with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as silent:
        try:
            silent.bind(("127.0.83.1", 53))
        except OSError as error:
            pytest.skip(f"no name server can be run here: {error}")
        yield "127.0.83.1"


def ask(server: Server, **changes: object) -> httpx.Response:
    with server.new_client() as client:
        return client.post("/v1/responses", json={**REQUEST, **changes})


def serve_without_names(launch: Launch, configuration: Path) -> Server:
    wrapper = ["unshare", "--mount", "sh", "-c", BIND, str(configuration)]
    if subprocess.run([*wrapper, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no file system can be mounted here")
    flags = ["--frontends", "1", "--workers", "1", "--served-model-name", "fake"]
    flags += ["--response-store-url", "postgresql+psycopg://user@database.invalid/store"]
    flags += ["--tool-server", MCP["server_url"]]
    return launch(*flags, wrapper=wrapper)


def serve_others(server: Server) -> None:
    """Ask for what needs no names, but threads."""
    body = {"model": "fake", "messages": [{"role": "user", "content": "x" * 300}]}
    for _ in range(OTHERS):
        assert server.get("/metrics").status_code == 200
        answer = server.client.post("/v1/chat/completions", json={**body, "max_tokens": 2})
        assert answer.status_code == 200, answer.text
        assert ask(server).status_code == 200


def check_refused(answer: httpx.Response) -> None:
    assert answer.status_code in (424, 502, 503), answer.text
    assert ".invalid" not in answer.text


def test_silent_name_servers_block_nobody_else(
    launch: Launch, tmp_path: Path, silence: str
) -> None:
    configuration = tmp_path / "resolv.conf"
    configuration.write_text(f"nameserver {silence}\noptions timeout:4 attempts:1\n")
    server = serve_without_names(launch, configuration)
    with ThreadPoolExecutor(TOOLS + STORED) as threads, clients(server, 4) as asking:
        waiting = [threads.submit(ask, server, tools=[MCP]) for _ in range(TOOLS)]
        waiting += [threads.submit(ask, server, store=True) for _ in range(STORED)]
        serve_others(server)
        assert not any(each.done() for each in waiting), "these wait for names"
        for each in as_completed(waiting):
            check_refused(each.result())
    assert set(asking.outcomes) == {"whole"}
    assert server.stop() == 0
    assert "Traceback" not in server.log


def test_without_name_servers(launch: Launch, tmp_path: Path) -> None:
    configuration = tmp_path / "resolv.conf"
    configuration.write_text("")
    server = serve_without_names(launch, configuration)
    check_refused(ask(server, tools=[MCP]))
    check_refused(ask(server, store=True))
    serve_others(server)
    assert server.stop() == 0
    assert "Traceback" not in server.log
