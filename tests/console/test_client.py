"""What an operator's tools send, and how they reach a server: keys, TLS and Unix sockets."""

import os
import shutil
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from headrace.console.client import Client, Unreachable, key_of
from headrace.console.top import main

SCRIPT = Path(__file__).parents[2] / "scripts" / "pool.sh"

KEY = "key-of-an-operator"


class Recorder(BaseHTTPRequestHandler):
    """Answers 401 unless the key is right, and notes what was asked for."""

    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        is_known = self.headers.get("Authorization") == f"Bearer {KEY}"
        self.send_response(200 if is_known else 401)
        self.end_headers()
        self.wfile.write(b'{"message": "ok"}')

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""

    def address_string(self) -> str:
        return "client"


class UnixServer(HTTPServer):
    address_family = socket.AF_UNIX

    def server_bind(self) -> None:
        self.socket.bind(self.server_address)
        self.server_name, self.server_port = "localhost", 0

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, _ = self.socket.accept()
        return connection, ("client", 0)


@pytest.fixture
def asked() -> list[str]:
    return []


@pytest.fixture
def serve(asked: list[str]) -> Iterator[Any]:
    """Starts a server and returns it."""
    running: list[HTTPServer] = []

    def start(server: HTTPServer) -> HTTPServer:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        running.append(server)
        return server

    handler = type("Handler", (Recorder,), {"asked": asked})
    start.handler = handler  # type: ignore[attr-defined]
    yield start
    for server in running:
        server.shutdown()
        server.server_close()


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A certificate of 127.0.0.1 that has signed itself, with its key beside it."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    words = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=x"
    files = ["-keyout", str(tmp_path / "key.pem"), "-out", str(tmp_path / "cert.pem")]
    names = ["-addext", "subjectAltName=IP:127.0.0.1"]
    command = ["openssl", *words.split(), *files, *names]
    subprocess.run(command, check=True, capture_output=True)
    return tmp_path / "cert.pem"


def tcp(serve: Any, certificate: Path | None = None) -> str:
    """The address of a server on a port of its own."""
    server = HTTPServer(("127.0.0.1", 0), serve.handler)
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, certificate.with_name("key.pem"))
        server.socket = context.wrap_socket(server.socket, server_side=True)
    serve(server)
    return f"127.0.0.1:{server.server_port}"


def test_the_key_is_sent(serve: Any, asked: list[str]) -> None:
    url = f"http://{tcp(serve)}"
    assert Client(url, KEY).json("/health?verbose") == {"message": "ok"}
    assert Client(f"{url}/prefix/", KEY).json("/load") == {"message": "ok"}
    assert asked == ["/health?verbose", "/prefix/load"]


@pytest.mark.parametrize(("key", "problem"), [("", "needs a key"), ("x", "does not accept")])
def test_a_refusal_says_what_to_set(serve: Any, key: str, problem: str) -> None:
    with pytest.raises(Unreachable, match=f"{problem}.*HEADRACE_API_KEY"):
        Client(f"http://{tcp(serve)}", key).text("/health")


@pytest.mark.parametrize("key", ["a\nb", "a\r\nX: y", "\x00"])
def test_a_bad_key_is_not_shown(key: str) -> None:
    with pytest.raises(Unreachable, match="control characters") as caught:
        Client("http://127.0.0.1:1", key).text("/health")
    assert key not in str(caught.value)
    assert KEY not in repr(Client("http://127.0.0.1:1", KEY))


def test_a_unix_socket(serve: Any, tmp_path: Path) -> None:
    path = tmp_path / "a socket"
    serve(UnixServer(str(path), serve.handler))  # type: ignore[arg-type]
    assert Client(f"unix:{path}", KEY).json("/health") == {"message": "ok"}
    with pytest.raises(Unreachable, match="No such file"):
        Client(f"unix:{tmp_path / 'none'}", KEY).text("/health")


def test_a_certificate_is_checked(serve: Any, certificate: Path) -> None:
    url = f"https://{tcp(serve, certificate)}"
    assert Client(url, KEY, certificate).json("/health") == {"message": "ok"}
    with pytest.raises(Unreachable, match=r"not trusted.*HEADRACE_CA_FILE"):
        Client(url, KEY).text("/health")
    with pytest.raises(Unreachable, match="No such file"):
        Client(url, KEY, certificate.with_name("none.pem")).text("/health")
    named = url.replace("127.0.0.1", "localhost")
    with pytest.raises(Unreachable, match="not trusted"):
        Client(named, KEY, certificate).text("/health")


@pytest.mark.parametrize("url", ["ftp://x", "127.0.0.1:8000", "http://", "http://x:y", "", "unix:"])
def test_wrong_addresses_are_one_line(url: str) -> None:
    with pytest.raises(Unreachable) as caught:
        Client(url, KEY).text("/health")
    assert "\n" not in str(caught.value)


def test_which_key_is_sent() -> None:
    both = {"HEADRACE_ADMIN_KEY": "a", "HEADRACE_API_KEY": " b\n"}
    assert key_of(both) == "a"
    assert key_of({**both, "HEADRACE_ADMIN_KEY": ""}) == "b"
    assert key_of({}) == ""


def test_top_takes_them_from_the_environment(
    serve: Any, certificate: Path, asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADRACE_URL", f"https://{tcp(serve, certificate)}")
    monkeypatch.setenv("HEADRACE_API_KEY", KEY)
    assert main(["--once"]) == 1
    assert not asked  # it does not trust the certificate
    monkeypatch.setenv("HEADRACE_CA_FILE", str(certificate))
    assert main(["--once"]) == 1  # what answers here is not of this server
    assert "/health?verbose" in asked
    asked.clear()
    monkeypatch.delenv("HEADRACE_CA_FILE")
    assert main(["--once", "--ca-file", str(certificate)]) == 1
    assert asked


def script(url: str, *words: str, key: str = KEY) -> tuple[int, str]:
    """The exit status of scripts/pool.sh, and what it says."""
    environment = os.environ | {"PYTHON": sys.executable, "HEADRACE_URL": url}
    environment |= {"HEADRACE_API_KEY": key}
    command = [str(SCRIPT), *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def test_the_script_reaches_all_of_them(
    serve: Any, certificate: Path, asked: list[str], tmp_path: Path
) -> None:
    path = tmp_path / "a socket"
    serve(UnixServer(str(path), serve.handler))  # type: ignore[arg-type]
    assert script(f"unix:{path}", "status")[0] == 0
    secured = f"https://{tcp(serve, certificate)}"
    assert script(secured, "--ca-file", str(certificate), "status")[0] == 0
    assert asked == ["/health?verbose", "/health?verbose"]
    status, told = script(secured, "status")
    assert status == 1
    assert "certificate" in told
    status, told = script(f"unix:{path}", "status", key="wrong")
    assert (status, "a valid key is needed" in told) == (1, True)


def test_the_script_shows_no_key(tmp_path: Path) -> None:
    """What it starts is not told the key by words or variables, which others could read."""
    curl = tmp_path / "curl"
    curl.write_text('#!/bin/sh\nenv; for word; do echo "word $word"; done; exit 1\n')
    curl.chmod(0o755)
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    environment |= {"HEADRACE_API_KEY": KEY, "HEADRACE_ADMIN_KEY": f"{KEY}-2"}
    patched = SCRIPT.read_text().replace("|| exit 1", '|| { printf "%s" "$answer"; exit 1; }')
    copy = tmp_path / "pool.sh"
    copy.write_text(patched)
    command = ["bash", str(copy), "status"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert "word --header" in done.stdout
    assert KEY not in done.stdout + done.stderr
