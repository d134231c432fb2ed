"""nginx and Caddy in front, configured as docs/deploying.md says: its own blocks are run."""

import contextlib
import re
import shutil
import socket
import ssl
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.end_to_end.network.raw import head
from tests.end_to_end.servers import Launch, Server, wait_for

ROOT = Path(__file__).parents[3]
CHAT = {"model": "fake", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 20}
NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
CADDY = shutil.which("caddy")
PROXIES = [
    pytest.param(name, marks=pytest.mark.skipif(found is None, reason=f"{name} is not installed"))
    for name, found in (("nginx", NGINX), ("caddy", CADDY))
]
AROUND_NGINX = """
daemon off;
master_process off;
pid {folder}/pid;
error_log {folder}/errors;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    {block}
}}
"""


def documented(language: str) -> str:
    """The configuration in the documentation."""
    text = (ROOT / "docs" / "deploying.md").read_text()
    found = re.search(rf"```{language}\n(.*?)```", text, re.DOTALL)
    assert found is not None
    return found[1]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("tls")
    files = folder / "cert.pem", folder / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt"]
    command += ["ec_paramgen_curve:prime256v1", "-nodes", "-days", "30", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=DNS:localhost", "-out", str(files[0])]
    command += ["-keyout", str(files[1])]
    subprocess.run(command, check=True, capture_output=True)
    return files


@contextlib.contextmanager
def proxy(name: str, server: Server, certificate: tuple[Path, Path]) -> Iterator[int]:
    """The port of a proxy in front of a server."""
    port = free_port()
    block = documented({"nginx": "nginx", "caddy": "caddyfile"}[name])
    for old, new in (
        ("127.0.0.1:8000", server.url.removeprefix("http://")),
        ("llm.example.org", f"localhost:{port}" if name == "caddy" else "localhost"),
        ("443", str(port)),
        ("/etc/ssl/llm.pem", str(certificate[0])),
        ("/etc/ssl/llm.key", str(certificate[1])),
    ):
        assert old in block or old == "443", old
        block = block.replace(old, new)
    with tempfile.TemporaryDirectory(prefix="hr-proxy-") as folder:
        if name == "nginx":
            assert NGINX is not None
            file = Path(folder, "nginx.conf")
            file.write_text(AROUND_NGINX.format(folder=folder, block=block))
            command = [NGINX, "-p", folder, "-c", str(file), "-e", f"{folder}/errors"]
        else:
            assert CADDY is not None
            file = Path(folder, "Caddyfile")
            file.write_text("{\n\tadmin off\n\tauto_https disable_redirects\n}\n" + block)
            command = [CADDY, "run", "--config", str(file), "--adapter", "caddyfile"]
        log = Path(folder, "log").open("w")  # noqa: SIM115
        process = subprocess.Popen(command, stdout=log, stderr=log, env={"HOME": folder})
        try:
            wait_for(lambda: _listens(port), Path(folder, "log").read_text() or "it listens")
            yield port
        finally:
            process.terminate()
            process.wait(10)
            log.close()


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


@pytest.fixture(scope="module")
def server(launch: Launch) -> Server:
    flags = ["--workers", "1", "--frontends", "2", "--served-model-name", "fake"]
    return launch(*flags, step_s=0.05)


@pytest.fixture(scope="module", params=PROXIES)
def port(
    request: pytest.FixtureRequest, server: Server, certificate: tuple[Path, Path]
) -> Iterator[int]:
    with proxy(request.param, server, certificate) as listening:
        yield listening


@pytest.fixture(params=[1, 2])
def client(
    request: pytest.FixtureRequest, port: int, certificate: tuple[Path, Path]
) -> Iterator[httpx.Client]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(certificate[0])
    versions = {"http1": request.param == 1, "http2": request.param == 2}
    with httpx.Client(
        base_url=f"https://localhost:{port}", verify=context, timeout=20, **versions
    ) as made:
        yield made


def test_streams_come_event_by_event(client: httpx.Client) -> None:
    times = []
    body = {**CHAT, "stream": True, "ignore_eos": True}
    with client.stream("POST", "/v1/chat/completions", json=body) as answer:
        assert answer.status_code == 200
        for line in answer.iter_lines():
            if line.startswith("data: {"):
                times.append(time.monotonic())
    assert len(times) >= 20
    assert times[-1] - times[0] > 0.5  # 20 steps of 0.05 s


def test_rejections_pass(client: httpx.Client) -> None:
    assert client.get("/nowhere").status_code == 404
    assert client.post("/v1/completions", json={"prompt": 1.5}).status_code == 400


def test_too_large_a_body_is_rejected(port: int, certificate: tuple[Path, Path]) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(certificate[0])
    url = f"https://localhost:{port}/v1/completions"
    answer = httpx.post(url, content=b" " * 9_000_000, verify=context, timeout=20)
    assert answer.status_code in (413, 502)  # Caddy 2.6 says 502 of its own limit


def test_who_leaves_frees_the_slot(client: httpx.Client, server: Server) -> None:
    body = {**CHAT, "stream": True, "max_tokens": 1800, "ignore_eos": True}
    with client.stream("POST", "/v1/chat/completions", json=body) as answer:
        next(answer.iter_lines())
        client.close()  # httpx does not reset a stream of HTTP/2 that is left
    wait_for(lambda: server.metric("headrace:num_requests_running") == 0, "nothing runs", 5)


def test_nothing_is_smuggled(port: int, certificate: tuple[Path, Path], server: Server) -> None:
    """A request that hides in another one's body is never answered as one of its own."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(certificate[0])
    hidden = b"GET /smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n"
    both = ["Transfer-Encoding: chunked", f"Content-Length: {len(hidden) + 5}"]
    cases = {
        "chunks and length": (both, b"0\r\n\r\n" + hidden),
        "odd chunks": (["Transfer-Encoding: xchunked", both[1]], b"0\r\n\r\n" + hidden),
        "space": (["Transfer-Encoding : chunked", both[1]], b"0\r\n\r\n" + hidden),
        "line feed": (["X: 1\nTransfer-Encoding: chunked", both[1]], b"0\r\n\r\n" + hidden),
        "tab": (["Transfer-Encoding:\tchunked", both[1]], b"0\r\n\r\n" + hidden),
    }
    for name, (headers, body) in cases.items():
        with (
            socket.create_connection(("127.0.0.1", port), 10) as plain,
            context.wrap_socket(plain, server_hostname="localhost") as connection,
        ):
            data = head("/v1/completions", *headers).replace(b"Host: a", b"Host: localhost")
            connection.sendall(data + body)
            connection.settimeout(1)
            received = b""
            with contextlib.suppress(OSError):
                while piece := connection.recv(65536):
                    received += piece
        assert received.count(b"HTTP/1.1 ") <= 2, name
        if received.count(b"HTTP/1.1 ") == 2:  # the proxy itself saw two: it is no secret to it
            assert b"HTTP/1.1 404" in received
