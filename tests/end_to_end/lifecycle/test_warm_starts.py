"""Workers that a fork server forks (a tiny model on torch), and deaths of any of the processes."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from tests.chaos.models import model_flags, save_chaos_model
from tests.end_to_end.servers import Server, wait_for

FORK_SERVER, WORKER = "headrace.workers.fork_server", "headrace.workers.main"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    folder.mkdir()
    return save_chaos_model(folder)


def start(model: Path, cache_dir: Path, *flags: str, workers: int = 2) -> Server:
    counts = ("--frontends", "1", "--workers", str(workers))
    return Server([*model_flags(model, "tiny"), *counts, *flags], cache_dir)


@pytest.fixture
def server(model: Path, cache_dir: Path) -> Iterator[Server]:
    """One that a test ends or leaves without a fork server. A start takes 10 s of CPU time."""
    started = start(model, cache_dir, workers=1)
    yield started
    started.stop()


@pytest.fixture(scope="module")
def shared(model: Path, cache_dir: Path) -> Iterator[Server]:
    """One that each test leaves as it was, if with other processes."""
    started = start(model, cache_dir)
    yield started
    assert started.stop() == 0


def living(server: Server, module: str) -> list[psutil.Process]:
    return [each for each in server.children(module) if each.status() != psutil.STATUS_ZOMBIE]


def fork_server(server: Server) -> psutil.Process:
    (process,) = living(server, FORK_SERVER)
    return process


def ready(server: Server) -> int:
    return server.log.count(" is ready (pid ")


def complete(server: Server) -> str:
    request = {"prompt": "hello", "max_tokens": 20, "temperature": 0, "ignore_eos": True}
    with server.new_client() as client:
        answer = client.post("/v1/completions", json=request).raise_for_status()
    text: str = answer.json()["choices"][0]["text"]
    return text


def replace_worker(server: Server) -> psutil.Process:
    """Kill one, and wait for its successor."""
    victim, others = living(server, WORKER)[0], set(living(server, WORKER))
    before = ready(server)
    victim.kill()
    wait_for(lambda: ready(server) > before, "another is ready", timeout_s=60)
    (new,) = set(living(server, WORKER)) - others
    return new


def test_forked_worker_looks_like_any_other(shared: Server) -> None:
    worker = replace_worker(shared)
    shown = worker.cmdline()
    assert shown[1:4] == ["-P", "-m", WORKER]
    assert shown[shown.index("--parent-pid") + 1] == str(shared.process.pid)
    assert worker.ppid() == shared.process.pid
    assert os.getsid(worker.pid) == worker.pid
    assert worker.environ()["OMP_NUM_THREADS"] == "1"
    name = shown[shown.index("--worker-id") + 1]
    assert f"{name} is ready (pid {worker.pid})" in shared.log
    assert f"ended (killed by signal {signal.SIGKILL:d})" in shared.log


def test_forked_workers_answer_alike_and_count_for_themselves(shared: Server) -> None:
    expected = complete(shared)
    before = shared.metric("headrace:generation_tokens_total")
    replace_worker(shared)
    assert [complete(shared) for _ in range(4)] == [expected] * 4
    assert shared.metric("headrace:generation_tokens_total") == before + 80
    files = [file.name for file in (shared.run_dir / "metrics").glob("*.db")]
    assert not [name for name in files if f"_{fork_server(shared).pid}." in name]
    assert shared.metric("headrace:worker_start_seconds", phase="imports") < 1


def test_a_fork_server_has_one_thread_and_a_death_leaves_no_zombie(shared: Server) -> None:
    replace_worker(shared)
    assert fork_server(shared).num_threads() == 1
    wait_for(lambda: len(shared.children()) == 5, "one of each but two workers", timeout_s=10)
    family = psutil.Process(shared.process.pid).children(recursive=True)
    assert psutil.STATUS_ZOMBIE not in [each.status() for each in family]


def test_killed_fork_server_is_started_again_and_its_workers_live(shared: Server) -> None:
    workers, old = living(shared, WORKER), fork_server(shared)
    before = len(shared.log)
    old.kill()
    wait_for(lambda: living(shared, FORK_SERVER) not in ([], [old]), "another fork server")
    assert living(shared, WORKER) == workers
    assert complete(shared)
    replace_worker(shared)  # by the new one, as soon as that can
    assert fork_server(shared) != old
    assert "started cold" not in shared.log[before:]


def test_fork_server_that_dies_before_it_can_fork_is_done_without(shared: Server) -> None:
    old = fork_server(shared)
    before = len(shared.log)
    old.kill()
    wait_for(lambda: living(shared, FORK_SERVER) not in ([], [old]), "another fork server")
    fork_server(shared).kill()
    wait_for(lambda: "workers are started cold" in shared.log[before:], "it is given up")
    replace_worker(shared)
    assert not living(shared, FORK_SERVER)
    assert complete(shared)
    shared.process.send_signal(signal.SIGHUP)
    wait_for(lambda: "rolling restart: done" in shared.log[before:], "all is replaced", 90)
    assert fork_server(shared).is_running(), "a rolling restart tries it again"


def test_fork_server_that_is_frozen_is_done_without(server: Server) -> None:
    fork_server(server).suspend()
    replace_worker(server)
    assert "forks no worker" in server.log
    assert complete(server)


def test_rolling_restart_replaces_the_fork_server_first(shared: Server) -> None:
    old, workers = fork_server(shared), set(living(shared, WORKER))
    before = len(shared.log)
    shared.process.send_signal(signal.SIGHUP)
    wait_for(lambda: "rolling restart: done" in shared.log[before:], "it is done", timeout_s=90)
    assert fork_server(shared).create_time() > old.create_time()
    assert not workers & set(living(shared, WORKER))
    new_since = fork_server(shared).create_time()
    assert all(each.create_time() > new_since for each in living(shared, WORKER))
    assert complete(shared)


@pytest.mark.parametrize("module", [FORK_SERVER, WORKER, ""])
def test_killed_launcher_leaves_nobody(server: Server, module: str) -> None:
    """Also when it dies just after a process of its own, whose successor is being started."""
    everyone = psutil.Process(server.process.pid).children(recursive=True)
    if module:
        before = set(server.children(module))
        living(server, module)[0].kill()
        wait_for(lambda: set(living(server, module)) - before, "its successor", timeout_s=60)
        everyone += psutil.Process(server.process.pid).children(recursive=True)
    server.process.kill()
    server.process.wait()
    _gone, alive = psutil.wait_procs(set(everyone), timeout=5)
    assert not alive


def test_signal_ends_fork_server_and_workers(server: Server) -> None:
    family = server.children()
    assert server.stop() == 0
    assert not any(each.is_running() for each in family)
    assert not server.run_dir.exists()
    assert "Traceback" not in server.log


def test_workers_are_started_cold_on_demand(model: Path, cache_dir: Path) -> None:
    server = start(model, cache_dir, "--no-warm-starts", workers=1)
    try:
        assert not server.children(FORK_SERVER)
        assert complete(server)
    finally:
        assert server.stop() == 0


def test_model_that_cannot_be_served_ends_the_start(model: Path, cache_dir: Path) -> None:
    """The exit code of a forked worker reaches the launcher."""
    flags = ("--max-model-len", "2048", "--kv-cache-memory-bytes", "1KiB")
    with pytest.raises(AssertionError, match="did not come up") as failed:
        start(model, cache_dir, *flags, workers=1)
    assert "holds" in str(failed.value)
    assert "Traceback" not in str(failed.value)
    assert "restarting in" not in str(failed.value)


def test_the_fake_engine_needs_no_fork_server(fake_pool: Server) -> None:
    assert not fake_pool.children(FORK_SERVER)
    assert httpx.get(f"{fake_pool.url}/health").status_code == 200
