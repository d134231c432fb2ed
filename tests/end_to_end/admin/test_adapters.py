"""LoRA adapters in a running pool: loaded, used, replaced and unloaded while things die."""

import json
import shutil
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.end_to_end.servers import Launch, Server, kill_workers, wait_for

PROMPT = [5, 6, 7, 8]


@pytest.fixture(scope="module")
def server(launch: Launch) -> Server:
    flags = ("--workers", "2", "--frontends", "2", "--enable-admin", "--enable-lora")
    return launch(*flags, "--served-model-name", "base", step_s=0.005)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_adapter(tmp_path / "adapter", 1)


def write_adapter(folder: Path, seed: int) -> Path:
    """One for the fake engine, whose texts are by its configuration."""
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "seed": seed}))
    (folder / "adapter_model.safetensors").write_bytes(b"")
    return folder


def post(server: Server, path: str, status: int = 200, **body: Any) -> httpx.Response:
    """On a connection of its own, which any frontend may have."""
    with server.new_client() as client:
        answer = client.post(path, json=body)
    assert answer.status_code == status, answer.text
    return answer


def load(server: Server, name: str, folder: Path, status: int = 200, **more: Any) -> httpx.Response:
    path = "/v1/load_lora_adapter"
    return post(server, path, status, lora_name=name, lora_path=str(folder), **more)


def unload(server: Server, name: str, status: int = 200, query: str = "") -> httpx.Response:
    return post(server, f"/v1/unload_lora_adapter{query}", status, lora_name=name)


def ask(server: Server, model: str, tokens: int = 8, status: int = 200) -> str:
    body = {"prompt": PROMPT, "max_tokens": tokens, "ignore_eos": True, "temperature": 0}
    answer = post(server, "/v1/completions", status, model=model, **body)
    return answer.json()["choices"][0]["text"] if status == 200 else ""


def names(server: Server) -> list[str]:
    return [each["id"] for each in server.get("/v1/models").json()["data"]]


def workers(server: Server) -> list[psutil.Process]:
    return server.children("headrace.workers.main")


def are_ready(server: Server, count: int = 2) -> bool:
    found: bool = server.get("/health?verbose").json()["groups"][0]["ready"] == count
    return found


@contextmanager
def adapter(server: Server, name: str, folder: Path) -> Iterator[None]:
    load(server, name, folder)
    yield
    unload(server, name)


@contextmanager
def begun(server: Server, model: str, tokens: int) -> Iterator["Future[str]"]:
    """A request whose text has begun; gives the whole of it."""
    has_begun = threading.Event()

    def read() -> str:
        body = {"model": model, "prompt": PROMPT, "max_tokens": tokens, "temperature": 0}
        parts = []
        with httpx.stream(
            "POST",
            f"{server.url}/v1/completions",
            json=body | {"stream": True, "ignore_eos": True},
            timeout=60,
        ) as answer:
            for line in answer.iter_lines():
                if line.startswith("data: {"):
                    chunk = json.loads(line[6:])
                    assert "error" not in chunk, chunk
                    parts.append(chunk["choices"][0]["text"])
                    has_begun.set()
        return "".join(parts)

    with ThreadPoolExecutor(1) as thread:
        text = thread.submit(read)
        assert has_begun.wait(30)
        yield text


def test_an_adapter_is_everywhere_before_its_loading_is_answered(
    server: Server, folder: Path
) -> None:
    for number in range(8):  # by turns in both frontends
        name = f"a{number}"
        load(server, name, folder)
        assert all(name in names(server) for _ in range(4))
        assert {ask(server, name) for _ in range(4)} == {ask(server, name)}
        unload(server, name)
        assert not any(name in names(server) for _ in range(4))
        ask(server, name, status=404)
    assert ask(server, "base") != ""


def test_texts_are_the_adapters(server: Server, tmp_path: Path) -> None:
    first, second = (write_adapter(tmp_path / str(seed), seed) for seed in (1, 2))
    with adapter(server, "one", first), adapter(server, "two", second):
        texts = [ask(server, name) for name in ("base", "one", "two")]
        assert len(set(texts)) == 3
        with ThreadPoolExecutor(12) as threads:
            again = list(threads.map(lambda name: ask(server, name), ["base", "one", "two"] * 8))
        assert again == texts * 8


def test_workers_that_are_started_again_have_it_though_its_folder_is_gone(
    server: Server, folder: Path
) -> None:
    with adapter(server, "a", folder):
        text = ask(server, "a")
        shutil.rmtree(folder)
        kill_workers(server)
        assert [ask(server, "a") for _ in range(8)] == [text] * 8


def test_one_that_is_used_is_drained_first(server: Server, folder: Path) -> None:
    load(server, "a", folder)
    whole = ask(server, "a", 400)
    with begun(server, "a", 400) as text, ThreadPoolExecutor(1) as thread:
        unloading = thread.submit(unload, server, "a")
        wait_for(lambda: "a" not in names(server), "its name to be free")
        ask(server, "a", status=404)
        assert not unloading.done()
        unload(server, "a", 408, query="?timeout=0.1")
        assert not text.done()
        assert text.result() == whole
        unloading.result()
    unload(server, "a", 404)
    assert not list((server.run_dir / "adapters").iterdir())


def test_one_in_place_of_another_under_load(server: Server, tmp_path: Path) -> None:
    first, second = (write_adapter(tmp_path / str(seed), seed) for seed in (1, 2))
    load(server, "a", first)
    old = ask(server, "a", 30)
    over = threading.Event()

    def user() -> list[str]:
        texts = []
        while not over.is_set():
            texts.append(ask(server, "a", 30))
        return texts

    with begun(server, "a", 400) as long, ThreadPoolExecutor(4) as threads:
        users = [threads.submit(user) for _ in range(4)]
        load(server, "a", second, 400)
        load(server, "a", second, load_inplace=True)
        new = ask(server, "a", 30)
        over.set()
        texts = {text for each in users for text in each.result()}
        assert old != new
        assert texts <= {old, new}
        assert long.result().startswith(old)
    unload(server, "a")


def test_a_worker_dies_while_it_loads(server: Server, folder: Path) -> None:
    victim = workers(server)[0]
    victim.suspend()
    with ThreadPoolExecutor(1) as thread:
        loading = thread.submit(load, server, "a", folder)
        wait_for(lambda: list((server.run_dir / "adapters").iterdir()), "its files to be copied")
        assert "a" not in names(server)
        victim.kill()
        loading.result()
    wait_for(lambda: are_ready(server), "another worker")
    assert len({ask(server, "a") for _ in range(8)}) == 1
    unload(server, "a")


def test_the_coordinator_dies_while_it_loads_and_while_it_unloads(
    server: Server, folder: Path
) -> None:
    victim = workers(server)[0]
    victim.suspend()
    with ThreadPoolExecutor(1) as thread:
        loading = thread.submit(load, server, "a", folder)
        wait_for(lambda: list((server.run_dir / "adapters").iterdir()), "its files to be copied")
        server.children("headrace.coordinator.main")[0].kill()
        victim.resume()
        loading.result()
    assert "a" in names(server)
    whole = ask(server, "a", 300)
    with begun(server, "a", 300) as text, ThreadPoolExecutor(1) as thread:
        unloading = thread.submit(unload, server, "a")
        wait_for(lambda: "a" not in names(server), "its name to be free")
        server.children("headrace.coordinator.main")[0].kill()
        assert text.result() == whole
        unloading.result()
    ask(server, "a", status=404)
    assert not list((server.run_dir / "adapters").iterdir())


def test_a_frontend_that_uses_it_dies(server: Server, folder: Path) -> None:
    load(server, "a", folder)
    with begun(server, "a", 2000) as text:
        for frontend in server.children("headrace.frontend.main"):
            frontend.kill()
        with pytest.raises(httpx.HTTPError):
            text.result()
    wait_for(lambda: server.get("/health").status_code == 200, "frontends")
    unload(server, "a")


def test_workers_that_come_later_have_it(server: Server, folder: Path) -> None:
    with adapter(server, "a", folder):
        text = ask(server, "a")
        post(server, "/scale_elastic_ep", new_data_parallel_size=3)
        first, second, _ = workers(server)
        for worker in (first, second):
            worker.send_signal(signal.SIGKILL)
        assert [ask(server, "a") for _ in range(4)] == [text] * 4
        wait_for(lambda: are_ready(server, 3), "the others")
        post(server, "/scale_elastic_ep", new_data_parallel_size=2)


def test_loaded_while_all_sleep(server: Server, folder: Path) -> None:
    post(server, "/sleep?level=2")
    with adapter(server, "a", folder):
        assert server.get("/is_sleeping").json()["is_sleeping"]
        assert ask(server, "a") != ask(server, "base")


def test_twenty_rounds_leave_nothing_behind(server: Server, tmp_path: Path) -> None:
    folders = [write_adapter(tmp_path / str(seed), seed) for seed in range(3)]
    load(server, "warm", folders[0])
    unload(server, "warm")
    before = [worker.num_fds() for worker in workers(server)]
    with ThreadPoolExecutor(3) as threads:

        def rounds(number: int) -> None:
            for _ in range(20):
                with adapter(server, f"a{number}", folders[number]):
                    ask(server, f"a{number}", 2)

        list(threads.map(rounds, range(3)))
    assert not list((server.run_dir / "adapters").iterdir())
    assert [worker.num_fds() for worker in workers(server)] == before
    assert names(server) == ["base"]


class TestStart:
    def test_with_adapters(self, launch: Launch, tmp_path: Path) -> None:
        folder = write_adapter(tmp_path / "a", 1)
        modules = [f"one={folder}", json.dumps({"name": "two", "path": str(folder)})]
        flags = ("--enable-lora", "--lora-modules", *modules, "--served-model-name", "base")
        server = launch(*flags, "--frontends", "1")
        assert names(server) == ["base", "one", "two"]
        assert ask(server, "one") == ask(server, "two") != ask(server, "base")

    @pytest.mark.parametrize(
        ("module", "flags", "said"),
        [
            ("one", ["--enable-lora"], "must be name=path"),
            ("one=/nowhere", ["--enable-lora"], "no adapter is there"),
            ("one={here}", [], "--lora-modules: .*needs --enable-lora"),
            ("base={here}", ["--enable-lora"], "'base' is used twice"),
        ],
    )
    def test_that_cannot_be(
        self, launch: Launch, tmp_path: Path, module: str, flags: list[str], said: str
    ) -> None:
        module = module.format(here=write_adapter(tmp_path / "a", 1))
        with pytest.raises(AssertionError, match=said):
            launch("--lora-modules", module, "--served-model-name", "base", *flags)
