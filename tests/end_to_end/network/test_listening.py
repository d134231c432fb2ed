"""Where a server listens, and what it prints about that: the line must work in a shell."""

import json
import os
import re
import shutil
import socket
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.end_to_end.servers import Launch, Server

CURL = shutil.which("curl")


@pytest.fixture
def folder() -> Iterator[Path]:
    """A short path: those of sockets have 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="hr ") as name:
        yield Path(name)


def printed_line(server: Server) -> str:
    found = re.search(r"^curl .*$", server.log, re.MULTILINE)
    assert found is not None
    return found[0]


def run_printed_line(server: Server) -> None:
    assert CURL is not None
    line = printed_line(server).replace("curl ", f"{CURL} --silent --show-error ", 1)
    done = subprocess.run(["sh", "-c", line], capture_output=True, timeout=30)
    assert json.loads(done.stdout)["object"] == "chat.completion", done


@pytest.mark.skipif(CURL is None, reason="curl is not installed")
@pytest.mark.parametrize("name", ["socket", "a b", "it's $HOME", 'quo"te', "ünï;code&"])
def test_printed_line_of_a_unix_socket_works(name: str, folder: Path, launch: Launch) -> None:
    server = launch("--workers", "1", "--frontends", "1", "--uds", str(folder / name))
    run_printed_line(server)


@pytest.mark.skipif(CURL is None, reason="curl is not installed")
def test_printed_line_names_any_model(launch: Launch) -> None:
    server = launch("--workers", "1", "--frontends", "1", "--served-model-name", 'it\'s "one" é')
    run_printed_line(server)


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o755), (0o077, 0o700), (0o002, 0o775)])
def test_umask_decides_who_may_connect(mask: int, mode: int, folder: Path, launch: Launch) -> None:
    """As in the reference; connecting takes the right to write."""
    before = os.umask(mask)
    try:
        server = launch("--workers", "1", "--frontends", "1", "--uds", str(folder / "socket"))
    finally:
        os.umask(before)
    assert stat.S_IMODE((folder / "socket").stat().st_mode) == mode
    assert server.stop() == 0
    assert not list(folder.iterdir())


def test_file_that_is_no_socket_is_left_alone(folder: Path, launch: Launch) -> None:
    (folder / "file").write_text("kept")
    with pytest.raises(AssertionError, match=r"--uds: cannot listen on .*: Address already in use"):
        launch("--uds", str(folder / "file"))
    assert (folder / "file").read_text() == "kept"
    assert [each.name for each in folder.iterdir()] == ["file"]


@pytest.mark.skipif(not socket.has_ipv6, reason="no IPv6")
@pytest.mark.parametrize(("host", "name"), [("::1", "[::1]"), ("localhost", "localhost")])
def test_ipv6_and_names(host: str, name: str, launch: Launch) -> None:
    server = launch("--workers", "1", "--frontends", "2", "--host", host)
    assert re.fullmatch(rf"http://{re.escape(name)}:\d+", server.url)
    assert httpx.get(f"{server.url}/health").status_code == 200
    if CURL is not None:
        run_printed_line(server)


def test_http2_without_tls(launch: Launch, folder: Path) -> None:
    """By prior knowledge, on a Unix socket too."""
    server = launch("--workers", "1", "--frontends", "1", "--uds", str(folder / "socket"))
    transport = httpx.HTTPTransport(uds=str(folder / "socket"), http1=False, http2=True)
    with httpx.Client(transport=transport, base_url="http://a") as client:
        answer = client.get("/health")
        assert (answer.status_code, answer.http_version) == (200, "HTTP/2")
    assert server.stop() == 0
