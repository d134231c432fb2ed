"""Keys on a real pool: who gets in, where secrets must not be, and a file that changes."""

import contextlib
import http.client
import json
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import psutil
import pytest

from headrace.protocol.api_keys import digest_of
from tests.end_to_end.servers import NO_CERTIFICATES, Launch, Server, wait_for

FIRST, SECOND = "first-of-flag-5d1c", "second-of-flag-77aa"
ADMIN, PLAIN, HASHED = "admin-of-variable-9e3f", "plain-in-file-4b4b", "hashed-in-file-0c0c"
SECRETS = (FIRST, SECOND, ADMIN, PLAIN, HASHED)
TOML = '[[keys]]\nname = "plain"\nkey = "{}"\n[[keys]]\nname = "hashed"\nhash = "sha256:{}"\n'


@pytest.fixture(scope="module")
def key_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("keys") / "keys.toml"
    file.write_text(TOML.format(PLAIN, digest_of(HASHED)))
    file.chmod(0o600)
    return file


@pytest.fixture(scope="module")
def server(launch: Launch, key_file: Path) -> Server:
    keys = ["--api-key", FIRST, SECOND, "--api-key-file", str(key_file)]
    variables = {"HEADRACE_ADMIN_KEY": ADMIN, "HEADRACE_FLAGS": f"--api-key {FIRST}"}
    pool = ["--frontends", "2", "--workers", "1", "--enable-admin"]
    return launch(*pool, *keys, variables=variables, key=FIRST)


def status(server: Server, key: str, path: str = "/v1/models") -> int:
    """The status on a connection of its own: any frontend may answer."""
    headers = {"Authorization": f"Bearer {key}"}
    return httpx.get(server.url + path, headers=headers, verify=NO_CERTIFICATES).status_code


def statuses(server: Server, key: str) -> set[int]:
    """The statuses of so many connections that all frontends have answered one."""
    return {status(server, key) for _ in range(8)}


def test_all_keys_open(server: Server) -> None:
    for key in SECRETS:
        assert statuses(server, key) == {200}
    assert statuses(server, "other") == {401}
    assert status(server, FIRST, "/server_info") == 403
    assert status(server, ADMIN, "/server_info") == 200
    assert httpx.get(f"{server.url}/health", verify=NO_CERTIFICATES).status_code == 200


def raw_status(server: Server, head: str) -> int:
    """The status of a request whose first lines are just these; 0: the connection was closed."""
    address = urlsplit(server.url)
    with socket.create_connection((address.hostname, address.port), timeout=30) as connection:
        connection.sendall(head.replace("\n", "\r\n").encode("latin1") + b"\r\n\r\n")
        line = connection.makefile("rb").readline()
    return int(line.split()[1]) if line else 0


@pytest.mark.parametrize(
    "head",
    [
        "GET /v1/models HTTP/1.1\nHost: x/health",
        "GET /v1/models HTTP/1.1\nHost: x/health?",
        "GET /v1/models HTTP/1.1\nHost: health",
        "GET /v1/models HTTP/1.1\nHost: a@b#/health",
        "GET /v1/models HTTP/1.1\nHost: x\nHost: health",
        "GET /v1/models HTTP/1.0",
        "GET http://x/v1/models HTTP/1.1\nHost: x",
        "GET HTTP://health/v1/models HTTP/1.1\nHost: x",
        "GET http://x/health/../v1/models HTTP/1.1\nHost: x",
        "GET //x/v1/models HTTP/1.1\nHost: x",
        "GET //v1/models HTTP/1.1\nHost: x",
        "GET /health/../v1/models HTTP/1.1\nHost: x",
        "GET /health%2f..%2fv1%2fmodels HTTP/1.1\nHost: x",
        "GET /%76%31/models HTTP/1.1\nHost: x",
        "GET /v1%2fmodels HTTP/1.1\nHost: x",
        "GET /v1/models?/health HTTP/1.1\nHost: x",
        "GET /health?verbose HTTP/1.1\nHost: x",
        "GET /health%3fverbose HTTP/1.1\nHost: x",
        "OPTIONS * HTTP/1.1\nHost: x",
        "OPTIONS /v1/models HTTP/1.1\nHost: x",
        "GET v1/models HTTP/1.1\nHost: x",
        "GET /v1/models HTTP/1.1\nHost: x\nAuthorization: Bearer\nX-Api-Key:",
        "GET /v1/models HTTP/1.1\nHost: x\nUpgrade: websocket\nConnection: upgrade",
        "GET /v1/models HTTP/1.1\nHost: x\nX-Forwarded-For: 127.0.0.1\nX-Original-URL: /health",
        "POST /invocations HTTP/1.1\nHost: x\nContent-Length: 2\nExpect: 100-continue",
    ],
)
def test_no_first_lines_open_a_route(server: Server, head: str) -> None:
    """CVE-2026-48746, through the HTTP server."""
    assert raw_status(server, head) in (400, 401, 0)


def test_the_same_lines_with_a_key(server: Server) -> None:
    key = f"\nHost: x\nAuthorization: Bearer {FIRST}"
    assert raw_status(server, f"GET /v1/models HTTP/1.1{key}") == 200
    assert raw_status(server, f"GET http://y/v1/models HTTP/1.1{key}") == 200
    assert raw_status(server, f"GET /%76%31/models HTTP/1.1{key}") == 200
    assert raw_status(server, f"GET /%73erver_info HTTP/1.1{key}") == 403
    assert raw_status(server, f"GET http://y/server_info HTTP/1.1{key}") == 403
    assert raw_status(server, f"GET //server_info HTTP/1.1{key}") in (403, 404)


def test_a_web_socket_is_refused(server: Server) -> None:
    upgrade = "Upgrade: websocket\nConnection: upgrade\nSec-WebSocket-Version: 13"
    nonce = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
    for path in ("/v1/models", "/v1/realtime"):
        head = f"GET {path} HTTP/1.1\nHost: x\n{upgrade}\n{nonce}"
        assert raw_status(server, head) in (400, 401, 403)


def test_no_process_shows_a_secret(server: Server) -> None:
    launcher = psutil.Process(server.process.pid)
    processes = launcher.children(recursive=True)
    assert len(processes) >= 4
    for process in (launcher, *processes):
        shown = "\0".join(process.cmdline())
        assert not [secret for secret in SECRETS if secret in shown]
    assert "--api-key" in launcher.cmdline()
    assert "--enable-admin" in launcher.cmdline()
    for process in processes:
        inherited = Path(f"/proc/{process.pid}/environ").read_bytes().decode()
        assert "HEADRACE_CACHE" in inherited
        assert not [secret for secret in SECRETS if secret in inherited]


def test_nothing_that_is_written_holds_a_secret(server: Server) -> None:
    status(server, "other")
    status(server, HASHED, "/server_info")
    headers = {"Authorization": f"Bearer {ADMIN}"}
    with server.new_client() as client:
        texts = [
            client.get(f"/server_info{query}", headers=headers).text for query in ("", "?verbose")
        ]
        texts.append(client.get("/metrics").text)
    files = [path for path in server.run_dir.rglob("*") if path.is_file()]
    assert server.run_dir / "pool.json" in files
    texts += [server.log, *(path.read_bytes().decode("latin1") for path in files)]
    for text in texts:
        assert not [secret for secret in (*SECRETS, "other-wrong-key") if secret in text]
    assert digest_of(HASHED) not in texts[0] + texts[1]


def test_rejections_are_counted(server: Server) -> None:
    name = "headrace:requests_refused_total"
    before = server.metric(name, reason="wrong_key"), server.metric(name, reason="no_key")
    status(server, "other")
    httpx.get(f"{server.url}/v1/models", verify=NO_CERTIFICATES)
    after = server.metric(name, reason="wrong_key"), server.metric(name, reason="no_key")
    assert after == (before[0] + 1, before[1] + 1)
    assert "rejected a request with a wrong key" in server.log


class Load:
    """Requests without a pause, of a key that stays. failures: all that was not right."""

    def __init__(self, server: Server) -> None:
        self.failures: list[str] = []
        self.count = 0
        self._server, self._end = server, threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> "Load":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _run(self) -> None:
        body = {"prompt": "a", "max_tokens": 4}
        while not self._end.is_set():
            with self._server.new_client() as client:
                answer = client.post("/v1/completions", json=body)
            self.count += 1
            if answer.status_code != 200:
                self.failures.append(answer.text)


@pytest.fixture
def load(server: Server) -> Iterator[Load]:
    with Load(server) as running:
        yield running
    assert running.count
    assert not running.failures


def replace(file: Path, text: str) -> None:
    """Replace a file as tools that are careful do."""
    part = file.with_suffix(".part")
    part.write_text(text)
    os.replace(part, file)


def wait_for_status(server: Server, key: str, wanted: int) -> None:
    wait_for(lambda: statuses(server, key) == {wanted}, f"{wanted} for a key")


def test_a_file_is_swapped_under_load(server: Server, key_file: Path, load: Load) -> None:
    replace(key_file, TOML.format("fresh-key-1", digest_of(HASHED)))
    wait_for_status(server, "fresh-key-1", 200)
    wait_for_status(server, PLAIN, 401)
    assert statuses(server, HASHED) == {200}
    key_file.write_text("")  # as a tool that was killed leaves it: no keys is no list of keys
    wait_for(lambda: server.log.count("keys: must be a list") == 2, "a line of each frontend")
    assert statuses(server, "fresh-key-1") == {200}
    replace(key_file, "keys = []")
    wait_for_status(server, "fresh-key-1", 401)
    replace(key_file, TOML.format(PLAIN, digest_of(HASHED)))
    wait_for_status(server, PLAIN, 200)


def frontends(server: Server) -> set[str]:
    return {each["name"] for each in server.get("/load?verbose").json()["frontends"]}


def test_a_successor_knows_the_last_good_keys(server: Server, key_file: Path) -> None:
    replace(key_file, TOML.format("fresh-key-2", digest_of(HASHED)))
    wait_for_status(server, "fresh-key-2", 200)
    wait_for_status(server, PLAIN, 401)
    key_file.unlink()
    wait_for(lambda: server.log.count("cannot be read: No such file") == 2, "a line of each")
    before = frontends(server)
    for child in server.children("headrace.frontend.main"):
        child.kill()
    wait_for(lambda: len(frontends(server) - before) == 2, "successors")
    assert statuses(server, "fresh-key-2") == {200}
    assert statuses(server, PLAIN) == {401}
    replace(key_file, TOML.format(PLAIN, digest_of(HASHED)))
    wait_for_status(server, PLAIN, 200)


def test_a_json_file_and_the_key_of_the_reference(launch: Launch, tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    file.write_text(json.dumps({"keys": [{"name": "ops", "key": PLAIN, "admin": True}]}))
    variables = {"VLLM_API_KEY": FIRST}
    server = launch("--api-key-file", str(file), "--enable-admin", variables=variables, key=FIRST)
    assert status(server, FIRST) == 200
    assert status(server, PLAIN, "/is_paused") == 200
    assert status(server, FIRST, "/is_paused") == 403
    assert "VLLM_API_KEY sets --api-key" in server.log


def test_a_rejected_head_has_no_body_and_keeps_the_connection(server: Server) -> None:
    address = urlsplit(server.url)
    connection = http.client.HTTPConnection(str(address.hostname), address.port, timeout=30)
    with contextlib.closing(connection):
        for method, path, key, status in (
            ("HEAD", "/v1/models", "", 401),
            ("HEAD", "/server_info", FIRST, 403),
            ("HEAD", "/v1/models", FIRST, 200),
            ("GET", "/v1/models", FIRST, 200),
        ):
            connection.request(method, path, headers={"x-api-key": key})
            answer = connection.getresponse()
            assert answer.status == status
            assert bool(answer.read()) == (method == "GET")
