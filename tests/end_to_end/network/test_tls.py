"""HTTPS by the server itself, in all frontends, and a certificate that changes under load."""

import json
import os
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest

from tests.end_to_end.servers import Launch, Server, wait_for

CHAT = {"model": "fake", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 20}


class Pair(NamedTuple):
    """A certificate and its key."""

    certificate: Path
    key: Path

    @property
    def flags(self) -> list[str]:
        return ["--ssl-certfile", str(self.certificate), "--ssl-keyfile", str(self.key)]

    @property
    def name(self) -> str:
        return self.certificate.stem

    def copy_to(self, other: "Pair") -> None:
        """Take the place of another, a file at a time, as tools that renew certificates do."""
        for source, target in zip(self, other, strict=True):
            new = target.with_suffix(".new")
            shutil.copyfile(source, new)
            new.replace(target)


def openssl(*arguments: object) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True, timeout=30)


@pytest.fixture(scope="module")
def make_pair(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Pair]:
    """Makes certificates for this machine. by: who signs; None: it signs itself."""
    folder = tmp_path_factory.mktemp("tls")

    def make(name: str, by: Pair | None = None) -> Pair:
        pair = Pair(folder / f"{name}.pem", folder / f"{name}.key")
        curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        names = ["-subj", f"/CN={name}", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
        signer = [] if by is None else ["-CA", by.certificate, "-CAkey", by.key]
        files = ["-keyout", pair.key, "-out", pair.certificate, "-days", 30]
        openssl("req", "-x509", *curve, *names, *files, *signer)
        return pair

    return make


@pytest.fixture(scope="module")
def pair(make_pair: Callable[..., Pair]) -> Pair:
    return make_pair("first")


@pytest.fixture(scope="module")
def server(launch: Launch, pair: Pair) -> Server:
    """Two frontends; its files are the first certificate's."""
    flags = ["--workers", "1", "--frontends", "2", "--served-model-name", "fake"]
    return launch(*flags, *pair.flags, "--tls-handshake-timeout", "2", step_s=0.01)


def trusting(*certificates: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    for each in certificates:
        context.load_verify_locations(each)
    return context


def shown_by(server: Server, context: ssl.SSLContext | None = None) -> str:
    """The name of the certificate that a new connection gets."""
    url = httpx.URL(server.url)
    unsure = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    unsure.check_hostname, unsure.verify_mode = False, ssl.CERT_NONE
    with (
        socket.create_connection((url.host, url.port or 443), timeout=5) as plain,
        (context or unsure).wrap_socket(plain, server_hostname="localhost") as connection,
    ):
        der = connection.getpeercert(binary_form=True)
    assert der is not None
    shown = subprocess.run(
        ["openssl", "x509", "-noout", "-subject", "-nameopt", "multiline"],
        input=ssl.DER_cert_to_PEM_cert(der).encode(),
        capture_output=True,
        check=True,
    )
    return shown.stdout.decode().split("=")[-1].strip()


def test_https_is_what_is_printed(server: Server) -> None:
    assert server.url.startswith("https://127.0.0.1:")
    assert f"\ncurl {server.url}/v1/chat/completions " in server.log


@pytest.mark.parametrize("version", [1, 2])
def test_streams_and_whole_answers(version: int, server: Server, pair: Pair) -> None:
    context = trusting(pair.certificate)
    with httpx.Client(
        base_url=server.url, verify=context, http1=version == 1, http2=version == 2
    ) as client:
        whole = client.post("/v1/chat/completions", json=CHAT)
        assert whole.http_version == {1: "HTTP/1.1", 2: "HTTP/2"}[version]
        content = whole.json()["choices"][0]["message"]["content"]
        body = {**CHAT, "stream": True}
        with client.stream("POST", "/v1/chat/completions", json=body) as answer:
            events = [line[6:] for line in answer.iter_lines() if line.startswith("data: {")]
        pieces = [json.loads(each)["choices"][0]["delta"].get("content", "") for each in events]
        assert len(events) > 5
        assert "".join(pieces) == content


def test_large_bodies_and_answers(server: Server, pair: Pair) -> None:
    with httpx.Client(base_url=server.url, verify=trusting(pair.certificate)) as client:
        body = {"model": "fake", "tokens": [70, 71] * 100_000}
        answer = client.post("/detokenize", json=body, timeout=60)
        assert len(answer.json()["prompt"]) == 200_000


@pytest.mark.parametrize("version", ["TLSv1", "TLSv1_1", "TLSv1_2", "TLSv1_3"])
def test_versions_of_tls(version: str, server: Server, pair: Pair) -> None:
    context = trusting(pair.certificate)
    context.set_ciphers("ALL:@SECLEVEL=0")
    with warnings.catch_warnings():  # of Python, about old versions
        warnings.simplefilter("ignore")
        context.minimum_version = context.maximum_version = ssl.TLSVersion[version]
    if version in ("TLSv1", "TLSv1_1"):
        with pytest.raises((ssl.SSLError, ConnectionError)):
            shown_by(server, context)
    else:
        assert shown_by(server, context) == "first"


@pytest.mark.parametrize("cipher", ["AES128-SHA", "ECDHE-ECDSA-AES128-SHA", "NULL"])
def test_weak_ciphers(cipher: str, server: Server, pair: Pair) -> None:
    context = trusting(pair.certificate)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(f"{cipher}:@SECLEVEL=0")
    with pytest.raises((ssl.SSLError, ConnectionError)):
        shown_by(server, context)


def test_plain_requests_are_not_answered(server: Server) -> None:
    with pytest.raises(httpx.RemoteProtocolError):
        httpx.get(server.url.replace("https", "http") + "/health")


def test_slow_handshakes_hold_nobody_up(server: Server, pair: Pair) -> None:
    url = httpx.URL(server.url)
    address = (url.host, url.port or 443)
    slow = [socket.create_connection(address, timeout=10) for _ in range(50)]
    begun_at = time.monotonic()
    try:
        for connection in slow[:25]:
            connection.sendall(b"\x16\x03\x01")
        for _ in range(5):
            assert shown_by(server, trusting(pair.certificate)) == "first"
        assert time.monotonic() - begun_at < 1.5
        for connection in slow:
            assert connection.recv(100) in (b"",)  # closed: the handshake has a deadline
        assert 1.5 < time.monotonic() - begun_at < 5
    finally:
        for connection in slow:
            connection.close()


def test_early_answers_are_not_lost(server: Server, pair: Pair) -> None:
    with httpx.Client(base_url=server.url, verify=trusting(pair.certificate)) as client:
        answer = client.post("/v1/completions", content=b" " * 30_000_000, timeout=20)
        assert answer.status_code in (400, 413)


# Certificates that change


@pytest.fixture
def refreshed(launch: Launch, make_pair: Callable[..., Pair]) -> Iterator[tuple[Server, Pair]]:
    own = make_pair(f"own{time.monotonic_ns()}")
    flags = ["--workers", "1", "--frontends", "2", "--served-model-name", "fake"]
    server = launch(*flags, *own.flags, "--enable-ssl-refresh", step_s=0.01)
    yield server, own
    server.stop()


def shows_everywhere(server: Server, name: str) -> bool:
    """Many connections, so that each frontend takes some."""
    return {shown_by(server) for _ in range(8)} == {name}


def test_certificate_is_swapped_under_load(
    refreshed: tuple[Server, Pair], make_pair: Callable[..., Pair]
) -> None:
    server, own = refreshed
    others = [make_pair(f"next{number}") for number in range(2)]
    context = trusting(own.certificate, *(each.certificate for each in others))
    failures: list[str] = []
    done = 0
    is_over = threading.Event()

    def load(keeps: bool) -> None:
        nonlocal done
        body = {**CHAT, "stream": True}
        client = httpx.Client(base_url=server.url, verify=context, timeout=20)
        while not is_over.is_set():
            try:
                if not keeps:
                    client.close()
                    client = httpx.Client(base_url=server.url, verify=context, timeout=20)
                answer = client.post("/v1/chat/completions", json=body)
                if "[DONE]" not in answer.text:
                    failures.append(answer.text)
                done += 1
            except httpx.HTTPError as error:
                failures.append(repr(error))
        client.close()

    with socket.create_connection(_address(server)) as plain:
        kept = context.wrap_socket(plain, server_hostname="localhost")
        threads = [threading.Thread(target=load, args=(n % 2 == 0,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for other in others:
            other.copy_to(own)
            wait_for(lambda: shows_everywhere(server, other.name), "the new certificate")  # noqa: B023
        kept.sendall(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n")  # an old one goes on
        assert kept.recv(1000).startswith(b"HTTP/1.1 200")
        is_over.set()
        for thread in threads:
            thread.join(30)
        kept.close()
    assert not failures
    assert done > 10


def test_broken_pair_is_not_used(
    refreshed: tuple[Server, Pair], make_pair: Callable[..., Pair]
) -> None:
    server, own = refreshed
    name = shown_by(server)
    other = make_pair("whole")
    lines = "the certificate has changed, the old one stays in use: "
    own.certificate.write_text(other.certificate.read_text()[:200])  # half of it
    wait_for(lambda: server.log.count(lines) == 2, "each frontend says so")
    assert shows_everywhere(server, name)
    shutil.copyfile(other.certificate, own.certificate)  # the key is not there yet
    wait_for(
        lambda: server.log.count(f"{lines}--ssl-keyfile: the key does not belong") == 2, "and again"
    )
    assert shows_everywhere(server, name)
    own.key.unlink()
    wait_for(lambda: server.log.count("No such file") == 2, "and that it is missing")
    assert shows_everywhere(server, name)
    shutil.copyfile(other.key, own.key)
    wait_for(lambda: shows_everywhere(server, "whole"), "the new certificate")
    time.sleep(2.5)
    assert server.log.count(lines) == 6


# Clients' certificates


def test_clients_must_show_a_certificate(
    launch: Launch, make_pair: Callable[..., Pair], pair: Pair
) -> None:
    authority = make_pair("authority")
    client_pair, stranger = make_pair("client", authority), make_pair("stranger")
    flags = ["--workers", "1", "--frontends", "1", *pair.flags]
    authorities = ["--ssl-ca-certs", str(authority.certificate)]
    strict = launch(*flags, *authorities, "--ssl-cert-reqs", "2")
    lenient = launch(*flags, *authorities, "--ssl-cert-reqs", "1")

    def status(server: Server, shown: Pair | None) -> int:
        context = trusting(pair.certificate)
        if shown is not None:
            context.load_cert_chain(*shown)
        return httpx.get(f"{server.url}/health", verify=context).status_code

    assert status(strict, client_pair) == status(lenient, client_pair) == 200
    assert status(lenient, None) == 200
    for server, shown in ((strict, None), (strict, stranger), (lenient, stranger)):
        with pytest.raises(httpx.HTTPError):
            status(server, shown)


# Starts


def start(*flags: str, model: Path) -> tuple[int, str]:
    command = [str(Path(sys.executable).with_name("headrace")), "serve", "--engine", "fake"]
    done = subprocess.run(
        [*command, "--model", str(model), "--port", "0", *flags],
        capture_output=True,
        text=True,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
        timeout=60,
        stdin=subprocess.DEVNULL,
    )
    return done.returncode, done.stderr


def test_what_cannot_be_used_ends_the_start(
    make_pair: Callable[..., Pair], pair: Pair, tmp_path: Path, fake_model: Path
) -> None:
    encrypted, empty, both = tmp_path / "encrypted", tmp_path / "empty", tmp_path / "both"
    openssl("pkey", "-in", pair.key, "-aes128", "-passout", "pass:secret", "-out", encrypted)
    empty.write_text("")
    both.write_text(pair.certificate.read_text() + make_pair("another").key.read_text())
    certificate, key = ["--ssl-certfile", str(pair.certificate)], ["--ssl-keyfile", str(pair.key)]
    cases: list[tuple[list[str], str]] = [
        ([*key], "--ssl-keyfile: needs --ssl-certfile"),
        (certificate, "--ssl-certfile: has no private key (PEM)"),
        (["--ssl-certfile", str(both)], "--ssl-certfile: the key does not belong to"),
        (["--ssl-certfile", "/none", *key], "--ssl-certfile: /none: No such file or directory"),
        ([*certificate, "--ssl-keyfile", "/none"], "--ssl-keyfile: /none: No such file"),
        ([*certificate, "--ssl-keyfile", "/tmp"], "--ssl-keyfile: /tmp: Is a directory"),
        ([*certificate, "--ssl-keyfile", str(encrypted)], "--ssl-keyfile: the key is encrypted"),
        ([*certificate, "--ssl-keyfile", str(empty)], "--ssl-keyfile: has no private key"),
        (["--ssl-certfile", str(empty), *key], "--ssl-certfile: is not a certificate (PEM)"),
        ([*pair.flags, "--ssl-ciphers", "none"], "--ssl-ciphers: OpenSSL knows no such ciphers"),
        ([*pair.flags, "--ssl-cert-reqs", "2"], "--ssl-cert-reqs: needs --ssl-ca-certs"),
        ([*pair.flags, "--ssl-cert-reqs", "3"], "--ssl-cert-reqs: must be 0, 1 or 2"),
        ([*pair.flags, "--ssl-ca-certs", str(empty)], "--ssl-ca-certs: is not a list"),
        (["--enable-ssl-refresh"], "--enable-ssl-refresh: needs --ssl-certfile"),
    ]
    for flags, text in cases:
        status, said = start(*flags, model=fake_model)
        assert status == 2
        (line,) = said.splitlines()
        assert line.startswith(f"headrace: error: {text}")


def _address(server: Server) -> tuple[str, int]:
    url: Any = httpx.URL(server.url)
    return url.host, url.port
