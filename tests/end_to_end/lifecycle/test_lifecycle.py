"""Starting, stopping, and processes that die (fake engine)."""

import contextlib
import functools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import psutil
import pytest

from tests.end_to_end.servers import Launch, Server, wait_for

LENGTH = 150


def complete(server: Server, number: int = 0, stream: bool = False, **fields: object) -> str:
    """The text of a completion; any failure raises."""
    request = {"prompt": f"hello {number}", "max_tokens": LENGTH, "ignore_eos": True, **fields}
    if not stream:
        with server.new_client() as client:
            answer = client.post("/v1/completions", json=request).raise_for_status()
        text: str = answer.json()["choices"][0]["text"]
        return text
    pieces, ended = [], False
    with (
        server.new_client() as client,
        client.stream("POST", "/v1/completions", json={**request, "stream": True}) as answer,
    ):
        answer.raise_for_status()
        for line in answer.iter_lines():
            assert not ended or not line, "nothing follows [DONE]"
            if line == "data: [DONE]":
                ended = True
            elif line:
                assert "error" not in line, line
                pieces.append(_text(line))
    assert ended
    return "".join(pieces)


def _text(line: str) -> str:
    text: str = json.loads(line.removeprefix("data: "))["choices"][0]["text"]
    return text


class Background:
    """Requests in threads; `texts` waits for all of them."""

    def __init__(self, server: Server, count: int, **fields: object) -> None:
        self._fields = fields
        self._texts: dict[int, str | Exception] = {}
        self._threads = [
            threading.Thread(target=self._run, args=(server, number)) for number in range(count)
        ]
        for thread in self._threads:
            thread.start()

    def _run(self, server: Server, number: int) -> None:
        try:
            self._texts[number] = complete(server, number, number % 2 == 0, **self._fields)
        except Exception as error:
            self._texts[number] = error

    def texts(self) -> list[str | Exception]:
        for thread in self._threads:
            thread.join(60)
        return [self._texts[number] for number in sorted(self._texts)]


@pytest.fixture(scope="module")
def server(launch: Launch) -> Server:
    return launch("--frontends", "2", "--workers", "2", step_s=0.01)


@pytest.fixture(scope="module")
def undisturbed(server: Server) -> list[str]:
    """What the requests of Background(server, 8) answer when nothing dies."""
    texts = Background(server, 8).texts()
    assert all(isinstance(text, str) and text for text in texts)
    return [str(text) for text in texts]


def running(server: Server) -> float:
    return server.metric("headrace:num_requests_running")


def ready_workers(server: Server) -> int:
    return server.log.count(" is ready (pid ")


def test_killed_worker_costs_no_request_and_comes_back(
    server: Server, undisturbed: list[str]
) -> None:
    before = ready_workers(server)
    requests = Background(server, 8)
    wait_for(lambda: running(server) == 8, "all requests run")
    server.children("headrace.workers.main")[0].kill()
    assert requests.texts() == undisturbed
    wait_for(lambda: ready_workers(server) == before + 1, "the worker is back")
    assert Background(server, 8).texts() == undisturbed


def test_workers_that_are_killed_together_come_back_without_delay(launch: Launch) -> None:
    server = launch("--frontends", "1", "--workers", "3")
    for worker in server.children("headrace.workers.main"):
        worker.kill()
    wait_for(lambda: ready_workers(server) == 6, "all are back")
    assert server.log.count("ended (killed by signal 9); restarting in 0.0 s") == 3
    assert "in a row" not in server.log


def test_killed_coordinator_costs_no_request(server: Server, undisturbed: list[str]) -> None:
    requests = Background(server, 8)
    wait_for(lambda: running(server) == 8, "all requests run")
    (coordinator,) = server.children("headrace.coordinator.main")
    coordinator.kill()
    workers = {worker.pid for worker in server.children("headrace.workers.main")}
    assert requests.texts() == undisturbed
    wait_for(lambda: server.children("headrace.coordinator.main"), "a new coordinator")
    assert Background(server, 8).texts() == undisturbed
    assert {worker.pid for worker in server.children("headrace.workers.main")} == workers
    # The new one does its work: it has a dead worker replaced.
    server.children("headrace.workers.main")[0].kill()
    wait_for(
        lambda: (
            len({worker.pid for worker in server.children("headrace.workers.main")} - workers) == 1
        ),
        "the new coordinator replaces a worker",
    )
    wait_for(lambda: Background(server, 2).texts() == undisturbed[:2], "and the pool serves")


def test_frozen_coordinator_is_replaced(launch: Launch) -> None:
    server = launch("--workers", "2", "--stall-timeout", "3", step_s=0.01)
    expected = Background(server, 2).texts()
    (coordinator,) = server.children("headrace.coordinator.main")
    coordinator.suspend()
    wait_for(lambda: not coordinator.is_running(), "it is killed")
    wait_for(lambda: server.children("headrace.coordinator.main"), "a new coordinator")
    before = ready_workers(server)
    server.children("headrace.workers.main")[0].kill()
    wait_for(lambda: ready_workers(server) > before, "which has workers replaced")
    assert Background(server, 2).texts() == expected


def test_coordinator_that_dies_while_requests_finish_is_replaced(launch: Launch) -> None:
    """It is needed still: workers may die meanwhile."""
    server = launch("--workers", "1", step_s=0.02)
    expected = Background(server, 1, max_tokens=400).texts()
    request = Background(server, 1, max_tokens=400)
    wait_for(lambda: running(server) == 1, "the request runs")
    server.process.terminate()
    (coordinator,) = server.children("headrace.coordinator.main")
    coordinator.kill()
    coordinators = functools.partial(server.children, "headrace.coordinator.main")
    wait_for(lambda: [each for each in coordinators() if each != coordinator], "a new coordinator")
    server.children("headrace.workers.main")[0].kill()
    assert request.texts() == expected
    assert server.stop() == 0


def test_killed_frontend_comes_back_and_counters_survive(server: Server) -> None:
    complete(server)
    tokens = server.metric("headrace:generation_tokens_total")
    assert tokens >= LENGTH
    victims = server.children("headrace.frontend.main")
    request = Background(server, 8)
    wait_for(lambda: running(server) == 8, "all requests run")
    for victim in victims:
        victim.kill()
    request.texts()  # they fail with their frontends: the connections are gone
    wait_for(lambda: len(server.children("headrace.frontend.main")) == 2, "new frontends")

    def serves() -> bool:
        with contextlib.suppress(httpx.HTTPError):
            return server.get("/health").status_code == 200
        return False

    wait_for(serves, "the new frontends serve")
    wait_for(lambda: running(server) == 0, "the workers have dropped the dead one's requests")
    assert server.metric("headrace:generation_tokens_total") >= tokens
    complete(server)
    assert server.metric("headrace:generation_tokens_total") >= tokens + LENGTH


def test_frontend_that_restarts_before_the_coordinator_calls_nobody_unhealthy(
    launch: Launch,
) -> None:
    server = launch("--frontends", "1", "--workers", "1")
    (frontend,) = server.children("headrace.frontend.main")
    frontend.kill()
    wait_for(
        lambda: server.children("headrace.frontend.main") not in ([], [frontend]), "its next start"
    )
    time.sleep(0.2)
    server.children("headrace.coordinator.main")[0].kill()
    assert [httpx.get(f"{server.url}/health").status_code for _ in range(20)] == [200] * 20


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_finishes_requests_then_leaves_nothing(
    launch: Launch, number: signal.Signals
) -> None:
    server = launch("--frontends", "2", "--workers", "2", step_s=0.01)
    expected = Background(server, 4).texts()
    family = server.children()
    assert len(family) == 5
    requests = Background(server, 4)
    wait_for(lambda: running(server) == 4, "all requests run")
    assert server.stop(number) == 0
    assert requests.texts() == expected
    assert not any(process.is_running() for process in family)
    assert not server.run_dir.exists()
    assert "Traceback" not in server.log


def test_worker_that_dies_while_requests_finish_is_replaced(launch: Launch) -> None:
    server = launch("--frontends", "1", "--workers", "1", step_s=0.01)
    expected = complete(server)
    request = Background(server, 1)
    wait_for(lambda: running(server) == 1, "the request runs")
    family = server.children()
    server.process.send_signal(signal.SIGTERM)
    wait_for(lambda: "stopping" in server.log, "the signal is taken")
    server.children("headrace.workers.main")[0].kill()
    assert request.texts() == [expected]
    assert server.process.wait(20) == 0
    assert not any(process.is_running() for process in family)
    assert not server.run_dir.exists()


def test_second_signal_ends_at_once(launch: Launch) -> None:
    server = launch("--frontends", "1", "--workers", "1", step_s=0.5)
    request = Background(server, 1)
    wait_for(lambda: running(server) == 1, "the request runs")
    server.process.send_signal(signal.SIGTERM)
    wait_for(lambda: "stopping" in server.log, "the first is taken")
    family = server.children()
    server.stop(signal.SIGTERM, timeout_s=5)
    assert not any(process.is_running() for process in family)
    assert isinstance(request.texts()[0], Exception)
    assert not server.run_dir.exists()


def test_killed_launcher_leaves_no_child(launch: Launch) -> None:
    server = launch("--frontends", "2", "--workers", "1")
    family = server.children()
    assert len(family) == 4
    os.kill(server.process.pid, signal.SIGKILL)
    server.process.wait()
    _gone, alive = psutil.wait_procs(family, timeout=5)
    assert not alive


def test_frozen_worker_is_unhealthy_then_replaced(launch: Launch) -> None:
    server = launch("--frontends", "1", "--workers", "1", "--stall-timeout", "1.5", step_s=0.01)
    expected = complete(server)
    (worker,) = server.children("headrace.workers.main")
    request = Background(server, 1)
    wait_for(lambda: running(server) == 1, "the request runs")
    worker.suspend()

    def health() -> int:
        return server.get("/health").status_code

    wait_for(lambda: health() == 503, "health tells the truth", timeout_s=5)
    wait_for(lambda: health() == 200, "another worker is there")
    assert request.texts() == [expected]
    assert not worker.is_running()


def test_worker_that_is_frozen_while_the_coordinator_dies_is_replaced(launch: Launch) -> None:
    server = launch("--frontends", "1", "--workers", "1", "--stall-timeout", "1.5", step_s=0.01)
    expected = complete(server)
    (worker,) = server.children("headrace.workers.main")
    (coordinator,) = server.children("headrace.coordinator.main")
    request = Background(server, 1)
    wait_for(lambda: running(server) == 1, "the request runs")
    worker.suspend()
    coordinator.kill()
    assert request.texts() == [expected]
    assert not worker.is_running()


def test_busy_pool_is_healthy(launch: Launch) -> None:
    server = launch("--frontends", "1", "--workers", "1", "--max-num-seqs", "2", step_s=0.02)
    requests = Background(server, 12, max_tokens=20)
    wait_for(lambda: running(server) == 2, "the pool is full")
    for _ in range(20):
        assert server.get("/health").status_code == 200
    assert all(isinstance(text, str) for text in requests.texts())


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--prot", "1"], "--prot"),
        (["--workers", "0"], "--workers"),
        (["--model", "/does/not/exist"], "--model: /does/not/exist"),
        (["--max-model-len", "999999"], "max-model-len"),
        (["--uds", "/does/not/exist/x"], "--uds"),
        (["--host", "256.1.1.1"], "--host"),
    ],
)
def test_wrong_start_says_so_in_one_line(
    fake_model: Path, cache_dir: Path, flags: list[str], named: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "headrace.launcher.command.cli", "serve", "--engine", "fake"]
        + (["--model", str(fake_model)] if "--model" not in flags else [])
        + ([] if "--uds" in flags else ["--port", "0"])
        + flags,
        capture_output=True,
        text=True,
        env={**os.environ, "HEADRACE_CACHE": str(cache_dir), "HF_HUB_OFFLINE": "1"},
        timeout=60,
        check=False,
    )
    assert done.returncode != 0
    (line,) = [line for line in done.stderr.splitlines() if "once" not in line]
    assert line.startswith("headrace: error:")
    assert named in line


def test_taken_port_says_so_in_one_line(server: Server, fake_model: Path, cache_dir: Path) -> None:
    port = httpx.URL(server.url).port
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "headrace.launcher.command.cli",
            "serve",
            "--engine",
            "fake",
            "--model",
            str(fake_model),
            "--port",
            str(port),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.splitlines() == [done.stderr.strip()]
    assert "--port" in done.stderr


def test_coordinator_and_worker_that_die_together_cost_no_request(launch: Launch) -> None:
    server = launch("--frontends", "1", "--workers", "1", step_s=0.01)
    expected = Background(server, 2).texts()
    for _ in range(3):
        requests = Background(server, 2)
        wait_for(lambda: running(server) == 2, "the requests run")
        (coordinator,) = server.children("headrace.coordinator.main")
        (worker,) = server.children("headrace.workers.main")
        coordinator.kill()
        worker.kill()
        assert requests.texts() == expected
        wait_for(lambda: server.children("headrace.coordinator.main"), "a new coordinator")


def test_code_in_the_current_directory_is_not_run(
    launch: Launch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("msgspec", "quart", "tokenizers"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('planted code ran')")
    monkeypatch.chdir(tmp_path)
    server = launch("--frontends", "1", "--workers", "1")
    assert "planted" not in server.log
    assert complete(server)
