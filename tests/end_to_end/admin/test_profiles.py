"""Profiles of real engines: a trace for each worker, while requests continue."""

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.chaos.models import model_flags, save_chaos_model
from tests.end_to_end.servers import Launch, Server, wait_for


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("profiles") / "traces"


@pytest.fixture(scope="module")
def tiny(
    tmp_path_factory: pytest.TempPathFactory, cache_dir: Path, folder: Path
) -> Iterator[Server]:
    model = save_chaos_model(tmp_path_factory.mktemp("models") / "tiny")
    pool = ["--workers", "2", "--frontends", "2", "--enable-admin"]
    flags = ["--profile-dir", str(folder), "--profile-max-seconds", "20"]
    server = Server([*model_flags(model, "tiny"), *pool, *flags], cache_dir)
    yield server
    assert server.stop() == 0


def post(server: Server, path: str, status: int = 200) -> httpx.Response:
    with server.new_client() as client:
        answer = client.post(path)
    assert answer.status_code == status, answer.text
    return answer


def ask(server: Server, prompt: str) -> str:
    body = {"prompt": prompt, "max_tokens": 20, "temperature": 0, "ignore_eos": True}
    answer = httpx.post(f"{server.url}/v1/completions", json=body, timeout=120)
    assert answer.status_code == 200, answer.text
    found: str = answer.json()["choices"][0]["text"]
    return found


def test_each_worker_writes_a_trace(tiny: Server, folder: Path) -> None:
    text = ask(tiny, "the fox")
    for _ in range(2):
        post(tiny, "/start_profile")
    for _ in range(4):
        assert ask(tiny, "the fox") == text
    workers = post(tiny, "/stop_profile?verbose").json()["workers"]
    names = [each["value"]["trace"] for each in workers]
    assert [name.partition("-2")[0] for name in names] == ["default-0.0", "default-1.0"]
    events = []
    for name in names:
        events += json.loads((folder / name).read_text())["traceEvents"]
    assert any(event["name"] == "engine step" for event in events)
    assert sum(event.get("cat") == "cpu_op" for event in events) > 10
    post(tiny, "/stop_profile")
    assert len(list(folder.iterdir())) == 2


def test_a_forgotten_profile_is_written(tiny: Server, folder: Path) -> None:
    before = len(list(folder.iterdir()))
    post(tiny, "/start_profile?worker=default-1")
    ask(tiny, "the dog")
    wait_for(lambda: len(list(folder.glob("*.json"))) == before + 1, "the trace", timeout_s=60)


def test_what_cannot_be_profiled_is_refused(launch: Launch, tmp_path: Path) -> None:
    fake = launch("--enable-admin")
    assert "--profile-dir" in post(fake, "/start_profile", 400).text
    named = launch("--enable-admin", "--profile-dir", str(tmp_path))
    assert "fake engine" in post(named, "/start_profile", 400).text
    assert "mode" in post(named, "/start_profile?mode=none", 400).text
    post(named, "/start_profile?mode=stacks")

    def is_sampled() -> bool:  # each profile takes some samples a second, on busy cores fewer
        ask(named, "the fox")
        post(named, "/stop_profile")
        found = any("engine;" in file.read_text() for file in tmp_path.iterdir())
        if not found:
            post(named, "/start_profile?mode=stacks")
        return found

    wait_for(is_sampled, "a sample", timeout_s=60)
