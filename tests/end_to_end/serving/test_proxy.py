"""Streams through nginx, which answers 504 itself when nothing comes for its read timeout."""

import contextlib
import json
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.end_to_end.servers import NO_CERTIFICATES, Launch, Server, wait_for

NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
READ_TIMEOUT_S = 5.0
SILENCE_S = READ_TIMEOUT_S + 2
STEP_S = 0.02

CHAT = [{"role": "user", "content": "hello"}]
TOKENS = 5
STREAMS: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": CHAT, "max_tokens": TOKENS, "ignore_eos": True},
    "/v1/completions": {"prompt": "hello", "max_tokens": TOKENS, "ignore_eos": True},
    "/v1/messages": {"model": "fake", "messages": CHAT, "max_tokens": TOKENS},
    "/v1/responses": {"input": "hello", "max_output_tokens": TOKENS, "store": False},
}
LAST = {"/v1/messages": "message_stop", "/v1/responses": "response.incomplete"}

CONFIGURATION = """
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
    server {{
        listen unix:{folder}/socket;
        location / {{
            proxy_pass {url};
            proxy_read_timeout {timeout:g}s;
            proxy_http_version {version};
            proxy_set_header Connection "";
        }}
    }}
}}
"""

pytestmark = pytest.mark.skipif(
    NGINX is None, reason="nginx is not installed (Debian: apt-get install nginx)"
)


@contextlib.contextmanager
def nginx(server: Server, version: str = "1.1") -> Iterator[httpx.Client]:
    """A client of nginx in front of the server. version: of HTTP, between the two."""
    assert NGINX is not None
    with tempfile.TemporaryDirectory(prefix="hr-nginx-") as folder:
        file = Path(folder, "nginx.conf")
        file.write_text(
            CONFIGURATION.format(
                folder=folder, url=server.url, timeout=READ_TIMEOUT_S, version=version
            )
        )
        process = subprocess.Popen([NGINX, "-p", folder, "-c", str(file), "-e", f"{folder}/errors"])
        try:
            wait_for(Path(folder, "socket").exists, "nginx listens")
            transport = httpx.HTTPTransport(uds=f"{folder}/socket", verify=NO_CERTIFICATES)
            with httpx.Client(transport=transport, base_url="http://nginx", timeout=60) as client:
                yield client
        finally:
            process.terminate()
            process.wait(10)


@pytest.fixture(scope="module")
def server(launch: Launch) -> Server:
    """One seat for all, and a comment well within nginx's patience."""
    flags = ["--workers", "1", "--frontends", "1", "--max-num-seqs", "1", "--enable-admin"]
    flags += ["--stall-timeout", "30", "--sse-keep-alive-interval", "1.5"]
    return launch(*flags, "--served-model-name", "fake", step_s=STEP_S)


@pytest.fixture(scope="module")
def proxy(server: Server) -> Iterator[httpx.Client]:
    with nginx(server) as client:
        yield client


def stream(client: httpx.Client, path: str) -> tuple[int, str]:
    answer = client.post(path, json={**STREAMS[path], "stream": True})
    return answer.status_code, answer.text


@contextlib.contextmanager
def asked(client: httpx.Client, *paths: str) -> Iterator[dict[str, Future[tuple[int, str]]]]:
    """The answers of streams that are asked for at once."""
    with ThreadPoolExecutor(len(paths)) as threads:
        yield {path: threads.submit(stream, client, path) for path in paths}


def check(path: str, answer: tuple[int, str]) -> None:
    """The stream is whole, and something filled its silence."""
    status, text = answer
    assert status == 200, text
    assert text.count(": keep-alive\n\n") + text.count("event: ping\n") >= 3
    assert "error" not in text.replace('"error":null', "")
    last = [line for line in text.splitlines() if line.startswith("data: ")][-1]
    if path in LAST:
        assert json.loads(last.removeprefix("data: "))["type"] == LAST[path]
    else:
        assert last == "data: [DONE]"


@contextlib.contextmanager
def occupied(server: Server) -> Iterator[None]:
    """The only seat is taken for longer than nginx waits."""
    body = {"prompt": "hello", "max_tokens": round(SILENCE_S / STEP_S), "ignore_eos": True}
    with ThreadPoolExecutor(1) as threads:
        threads.submit(server.client.post, "/v1/completions", json=body)
        wait_for(lambda: server.metric("headrace:num_requests_running") == 1, "the seat is taken")
        yield


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_who_waits_in_the_queue_is_answered(server: Server, version: str) -> None:
    with nginx(server, version) as proxy, occupied(server), asked(proxy, *STREAMS) as answers:
        for path, answer in answers.items():
            check(path, answer.result())


def test_who_waits_in_a_pause_is_answered(server: Server, proxy: httpx.Client) -> None:
    server.client.post("/pause?mode=keep").raise_for_status()
    with asked(proxy, *STREAMS) as answers:
        time.sleep(SILENCE_S)
        server.client.post("/resume").raise_for_status()
        for path, answer in answers.items():
            check(path, answer.result())


def test_who_waits_for_a_pool_to_wake_is_answered(server: Server, proxy: httpx.Client) -> None:
    """It wakes when it is asked to, but its worker takes a while."""
    server.client.post("/sleep").raise_for_status()
    (worker,) = server.children("headrace.workers.main")
    worker.send_signal(signal.SIGSTOP)
    try:
        with asked(proxy, *STREAMS) as answers:
            time.sleep(SILENCE_S)
            worker.send_signal(signal.SIGCONT)
            for path, answer in answers.items():
                check(path, answer.result())
    finally:
        worker.send_signal(signal.SIGCONT)


def test_who_leaves_nginx_in_the_queue_is_never_run(server: Server, proxy: httpx.Client) -> None:
    def waiting() -> float:
        return server.metric("headrace:num_requests_waiting")

    with occupied(server):
        body = {**STREAMS["/v1/chat/completions"], "stream": True}
        with proxy.stream("POST", "/v1/chat/completions", json=body) as answer:
            assert next(answer.iter_text()).startswith(": keep-alive")
            wait_for(lambda: waiting() == 1, "it waits")
        wait_for(lambda: waiting() == 0, "nobody waits", timeout_s=3)


def test_without_comments_nginx_gives_up(launch: Launch) -> None:
    flags = ["--workers", "1", "--frontends", "1", "--max-num-seqs", "1"]
    silent = launch(*flags, "--sse-keep-alive-interval", "0", step_s=STEP_S)
    with nginx(silent) as client, occupied(silent):
        assert stream(client, "/v1/chat/completions")[0] == 504
