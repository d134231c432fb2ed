"""SIGHUP to a pool of one worker: its successor starts first (fake engine)."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.end_to_end.servers import Launch, Server, wait_for

TOKENS, STEP_S = 30, 0.01
# Far below what a start of a worker takes, and far above what an answer does.
LATE_S = 2.0


class Probes:
    """Asks for /health?verbose all the time, and for completions."""

    def __init__(self, server: Server, models: Sequence[str] = ("fake",)) -> None:
        self.statuses: Counter[int | str] = Counter()
        self.answers: Counter[int | str] = Counter()
        self.slowest_s = 0.0
        self.phases: list[dict[str, Any]] = []
        self._server, self._over = server, threading.Event()
        self._models = cycle(models)
        asking = [self._watch, self._ask, self._ask]
        self._threads = [threading.Thread(target=each) for each in asking]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(60)

    def _watch(self) -> None:
        while not self._over.is_set():
            try:
                answer = self._server.get("/health?verbose")
            except httpx.HTTPError as error:
                self.statuses[repr(error)] += 1
                continue
            self.statuses[answer.status_code] += 1
            reload = answer.json()["reload"]
            if reload is not None and reload not in self.phases:
                self.phases.append(reload)
            time.sleep(0.05)

    def _ask(self) -> None:
        body = {"prompt": "hello", "max_tokens": TOKENS, "ignore_eos": True}
        while not self._over.is_set():
            body["model"] = next(self._models)
            began = time.monotonic()
            try:
                with self._server.new_client() as client:
                    status: int | str = client.post("/v1/completions", json=body).status_code
            except httpx.HTTPError as error:
                status = repr(error)
            self.answers[status] += 1
            self.slowest_s = max(self.slowest_s, time.monotonic() - began)


@contextmanager
def probes(server: Server, *models: str) -> Iterator[Probes]:
    asking = Probes(server, models or ("fake",))
    try:
        yield asking
    finally:
        asking.stop()


def workers(server: Server) -> list[int]:
    return [each.pid for each in server.children("headrace.workers.main")]


def reload(server: Server, outcome: str = "rolling restart: done") -> None:
    count = server.log.count(outcome)
    server.process.send_signal(signal.SIGHUP)
    wait_for(lambda: server.log.count(outcome) > count, f"{outcome} in the log", 60)


def reload_and_wait(server: Server, status: int) -> str:
    """What `pool.sh reload --wait` says."""
    script = str(Path(__file__).parents[3] / "scripts/pool.sh")
    environment = os.environ | {"HEADRACE_URL": server.url, "PYTHON": sys.executable}
    command = [script, "reload", "--wait", str(server.run_dir)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_a_single_worker_is_replaced_without_a_hole(launch: Launch) -> None:
    server = launch("--frontends", "2", step_s=STEP_S)
    before = workers(server)
    with probes(server) as asking:
        wait_for(lambda: asking.answers[200] > 4, "requests are answered")
        reload(server)
        reload(server)
    assert set(asking.statuses) == {200}
    assert set(asking.answers) == {200}
    assert asking.slowest_s < LATE_S
    assert not set(before) & set(workers(server))
    seen = [(each["phase"], each.get("old"), each.get("new")) for each in asking.phases]
    assert ("starting", "default-0.0", "default-0.1") in seen
    assert ("starting", "default-0.1", "default-0.2") in seen
    assert asking.phases[-1] == {"number": 2, "phase": "done"} or seen[-1][0] == "frontends"
    assert "cannot be reached" not in server.log
    assert server.stop() == 0


def test_workers_of_several_groups_are_replaced_one_at_a_time(
    fake_model: Path, cache_dir: Path, tmp_path: Path
) -> None:
    """A second request during a reload is a reload after it."""
    file = tmp_path / "config.toml"
    group = f'[[group]]\nmodel = "{fake_model}"\nengine = "fake"\nworkers = 1\n'
    names = ("one", "two")
    file.write_text(
        "".join(f'{group}name = "{each}"\nserved_model_name = "{each}"\n' for each in names)
    )
    server = Server(["--config", str(file)], cache_dir)
    before = workers(server)
    with probes(server, *names) as asking:
        wait_for(lambda: asking.answers[200] > 4, "requests are answered")
        server.process.send_signal(signal.SIGHUP)
        wait_for(lambda: "rolling restart: workers" in server.log, "a reload has begun")
        server.process.send_signal(signal.SIGHUP)
        wait_for(lambda: server.log.count("rolling restart: done") == 2, "both are done", 90)
    assert set(asking.statuses) == {200}
    assert set(asking.answers) == {200}
    seen = {(each.get("old"), each.get("new")) for each in asking.phases}
    for name in names:
        assert {(f"{name}-0.{n}", f"{name}-0.{n + 1}") for n in range(2)} <= seen
    after = workers(server)
    assert len(after) == len(before) == 2
    assert not set(before) & set(after)
    assert server.stop() == 0


def test_without_surge_the_worker_leaves_first(launch: Launch) -> None:
    server = launch("--frontends", "1", "--no-reload-surge", step_s=STEP_S)
    with probes(server) as asking:
        wait_for(lambda: asking.answers[200] > 4, "requests are answered")
        reload(server)
    assert set(asking.answers) == {200}  # they wait
    assert set(asking.statuses) == {200, 503}
    assert {each["phase"] for each in asking.phases} >= {"replacing"}
    assert "leaves before its successor starts: --no-reload-surge" in server.log
    assert server.stop() == 0


def test_a_successor_that_cannot_start_leaves_the_old_one(launch: Launch) -> None:
    server = launch("--frontends", "1", step_s=STEP_S)
    before = workers(server)
    config = server.run_dir / "pool.json"
    pool = json.loads(config.read_text())
    model = pool["groups"][0]["model_path"]
    pool["groups"][0]["model_path"] = str(server.run_dir / "no-such-model")
    whole = config.read_text()
    config.write_text(json.dumps(pool))
    with probes(server) as asking:
        wait_for(lambda: asking.answers[200] > 4, "requests are answered")
        told = reload_and_wait(server, status=1)
        assert "default-0.0 is kept" in told
        assert "rolling restart: aborted" in server.log
        config.write_text(whole)
        wait_for(lambda: asking.phases[-1]["phase"] == "failed", "it is shown")
    shown = asking.phases[-1]
    assert shown["old"] == "default-0.0"
    assert "default-0.0 is kept" in shown["reason"]
    assert model not in json.dumps(shown)
    assert set(asking.statuses) == {200}
    assert set(asking.answers) == {200}
    assert workers(server) == before
    assert "reload 2: done" in reload_and_wait(server, status=0)
    assert not set(workers(server)) & set(before)
    assert server.stop() == 0


@pytest.mark.parametrize("victim", ["successor", "old", "coordinator"])
def test_deaths_in_mid_reload(launch: Launch, victim: str) -> None:
    server = launch("--frontends", "1", step_s=STEP_S)
    (old,) = server.children("headrace.workers.main")
    with probes(server) as asking:
        wait_for(lambda: asking.answers[200] > 4, "requests are answered")
        done = server.log.count("rolling restart: done")
        server.process.send_signal(signal.SIGHUP)
        wait_for(lambda: len(workers(server)) == 2, "the successor starts")
        if victim == "coordinator":
            server.children("headrace.coordinator.main")[0].kill()
        else:
            chosen = [e for e in server.children("headrace.workers.main") if e.pid != old.pid]
            (old if victim == "old" else chosen[0]).kill()
        wait_for(lambda: server.log.count("rolling restart: done") > done, "it is done", 60)
    assert set(asking.answers) == {200}
    if victim != "old":
        assert set(asking.statuses) == {200}
    assert len(workers(server)) == 1
    assert old.pid not in workers(server)
    assert server.stop() == 0


def test_a_resize_during_a_reload(launch: Launch) -> None:
    server = launch("--frontends", "1", "--workers", "2", "--enable-admin", step_s=STEP_S)
    before = workers(server)
    with probes(server) as asking:
        done = server.log.count("rolling restart: done")
        server.process.send_signal(signal.SIGHUP)
        wait_for(lambda: len(workers(server)) == 3, "a successor starts")
        scaled = server.client.post("/scale_elastic_ep", json={"new_data_parallel_size": 1})
        assert scaled.status_code == 200, scaled.text
        wait_for(lambda: server.log.count("rolling restart: done") > done, "it is done", 60)
        wait_for(lambda: len(workers(server)) == 1, "one is left")
    assert set(asking.statuses) == {200}
    assert set(asking.answers) == {200}
    assert not set(before) & set(workers(server))
    (group,) = server.get("/health?verbose").json()["groups"]
    assert (group["ready"], group["wanted"], group["is_scaling"]) == (1, 1, False)
    assert server.stop() == 0


def test_a_sleeping_pool_with_an_adapter(launch: Launch, tmp_path: Path) -> None:
    flags = ("--frontends", "1", "--enable-admin", "--enable-lora")
    server = launch(*flags, step_s=STEP_S)
    (tmp_path / "adapter_config.json").write_text("{}")
    (tmp_path / "adapter_model.safetensors").write_bytes(b"")
    adapter = {"lora_name": "sql", "lora_path": str(tmp_path)}
    assert server.client.post("/v1/load_lora_adapter", json=adapter).status_code == 200
    before = workers(server)
    assert server.client.post("/sleep").status_code == 200
    reload(server)
    assert not set(before) & set(workers(server))

    def is_asleep() -> bool:
        (group,) = server.get("/health?verbose").json()["groups"]
        return bool(group["asleep"] == 1)

    wait_for(is_asleep, "the successor is put to sleep, too")
    server.process.send_signal(signal.SIGHUP)
    wait_for(lambda: len(workers(server)) == 2, "another successor starts")
    began = time.monotonic()
    body = {"model": "sql", "prompt": "hello", "max_tokens": 2}
    assert server.client.post("/v1/completions", json=body).status_code == 200
    assert time.monotonic() - began < LATE_S
    wait_for(lambda: server.log.count("rolling restart: done") == 2, "it is done", 60)
    assert server.client.post("/v1/completions", json=body).status_code == 200
    assert server.get("/health").status_code == 200
    assert server.stop() == 0
