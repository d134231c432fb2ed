"""Batches over real processes: with the openai SDK, beside live requests, and when all die."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import psutil
import pytest
from openai import OpenAI
from openai.types import Batch

from tests.end_to_end.servers import Launch, Server, wait_for

CHAT: Literal["/v1/chat/completions"] = "/v1/chat/completions"
LINES = 2000


def line(number: int, **fields: Any) -> dict[str, Any]:
    message = {"role": "user", "content": f"Tell me about number {number}."}
    body = {"model": "fake", "messages": [message], "max_tokens": 8, "ignore_eos": True, **fields}
    return {"custom_id": f"line-{number}", "method": "POST", "url": CHAT, "body": body}


def jsonl(count: int, **fields: Any) -> bytes:
    return b"".join(json.dumps(line(n, **fields)).encode() + b"\n" for n in range(count))


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Flags of a store and a folder of files that outlive pools."""
    folder = tmp_path_factory.mktemp("kept")
    store = f"sqlite:///{folder / 'store.db'}"
    return ["--response-store-url", store, "--file-dir", str(folder / "files")]


FLAGS = ["--served-model-name", "fake", "--frontends", "2"]


@pytest.fixture(scope="module")
def server(launch: Launch, kept: list[str]) -> Server:
    return launch(*FLAGS, *kept, "--workers", "2", "--max-num-seqs", "16", step_s=0.002)


def sdk(server: Server) -> OpenAI:
    return OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=60)


@pytest.fixture
def client(server: Server) -> Iterator[OpenAI]:
    with sdk(server) as client:
        yield client


def start(client: OpenAI, content: bytes) -> Batch:
    file = client.files.create(file=("in.jsonl", content), purpose="batch")
    return client.batches.create(
        input_file_id=file.id, endpoint=CHAT, completion_window="24h", metadata={"of": "a test"}
    )


def ended(client: OpenAI, batch_id: str, timeout_s: float = 120.0) -> Batch:
    found: list[Batch] = []

    def has_ended() -> bool:
        found[:] = [client.batches.retrieve(batch_id)]
        return found[0].status in ("completed", "failed", "expired", "cancelled")

    wait_for(has_ended, "the batch has ended", timeout_s)
    return found[0]


def results(client: OpenAI, file_id: str | None) -> list[dict[str, Any]]:
    return [json.loads(each) for each in client.files.content(file_id or "").text.splitlines()]


def done_lines(client: OpenAI, batch_id: str) -> int:
    counts = client.batches.retrieve(batch_id).request_counts
    return 0 if counts is None else counts.completed + counts.failed


def assert_each_line_once(client: OpenAI, batch: Batch, count: int) -> None:
    assert batch.status == "completed", batch
    assert batch.error_file_id is None
    assert batch.request_counts is not None
    assert batch.request_counts.completed == batch.request_counts.total == count
    found = [each["custom_id"] for each in results(client, batch.output_file_id)]
    assert sorted(found) == sorted(f"line-{n}" for n in range(count))


def test_the_sdk_reads_all_that_it_knows(client: OpenAI) -> None:
    file = client.files.create(
        file=("in.jsonl", jsonl(3)),
        purpose="batch",
        expires_after={"anchor": "created_at", "seconds": 3600},
    )
    assert file.expires_at is not None
    assert file.expires_at - file.created_at == 3600
    assert client.files.retrieve(file.id) == file
    assert file.id in [each.id for each in client.files.list(purpose="batch")]
    batch = client.batches.create(
        input_file_id=file.id,
        endpoint=CHAT,
        completion_window="24h",
        output_expires_after={"anchor": "created_at", "seconds": 7200},
    )
    batch = ended(client, batch.id)
    assert batch.usage is not None
    assert batch.usage.output_tokens == 24
    assert batch.usage.total_tokens == batch.usage.input_tokens + 24
    assert_each_line_once(client, batch, 3)
    output = client.files.retrieve(batch.output_file_id or "")
    assert output.purpose == "batch_output"
    assert output.expires_at is not None
    assert output.expires_at - output.created_at == 7200
    assert batch.id in [each.id for each in client.batches.list(limit=1)]
    assert client.files.delete(file.id).deleted


def test_lines_answer_as_their_route_does(client: OpenAI) -> None:
    fields: Any = {"temperature": 0, "seed": 3}
    batch = ended(client, start(client, jsonl(4, **fields)).id)
    for each in results(client, batch.output_file_id):
        number = int(each["custom_id"].partition("-")[2])
        body = line(number, **fields)["body"]
        direct = client.chat.completions.create(
            **{k: v for k, v in body.items() if k != "ignore_eos"}, extra_body={"ignore_eos": True}
        )
        found = each["response"]["body"]
        assert found["choices"][0]["message"]["content"] == direct.choices[0].message.content
        assert found["usage"]["completion_tokens"] == 8


def test_a_cancelled_batch_ends_soon(client: OpenAI) -> None:
    batch = start(client, jsonl(LINES, max_tokens=200))
    wait_for(lambda: done_lines(client, batch.id) > 0, "some lines")
    assert client.batches.cancel(batch.id).status == "cancelling"
    started = time.monotonic()
    batch = ended(client, batch.id, timeout_s=15)
    assert batch.status == "cancelled", time.monotonic() - started
    assert batch.request_counts is not None
    assert 0 < batch.request_counts.completed < LINES
    assert len(results(client, batch.output_file_id)) == batch.request_counts.completed
    assert len(results(client, batch.error_file_id)) == batch.request_counts.failed


def test_progress_shows_in_the_metrics_and_in_top(server: Server, client: OpenAI) -> None:
    batch = start(client, jsonl(500, max_tokens=200))
    wait_for(lambda: server.metric("headrace:batches", status="in_progress") == 1, "the metric")
    before = server.metric("headrace:batch_lines_total", outcome="completed")
    command = [str(Path(sys.executable).with_name("headrace")), "top", "--once"]
    top = [*command, "--url", server.url]
    text = subprocess.run(top, capture_output=True, text=True, check=True, timeout=60).stdout
    assert batch.id[:14] in text
    assert "500" in text
    done = ended(client, batch.id).request_counts
    assert done is not None
    assert done.completed == 500
    after = server.metric("headrace:batch_lines_total", outcome="completed")
    assert before < after
    assert server.metric("headrace:batches", status="in_progress") == 0


@pytest.mark.parametrize("module", ["frontend", "workers", "coordinator"])
def test_one_kind_of_process_dies(server: Server, client: OpenAI, module: str) -> None:
    batch = start(client, jsonl(500, max_tokens=40))
    wait_for(lambda: done_lines(client, batch.id) > 0, "some lines")
    for process in server.children(f"headrace.{module}"):
        process.kill()
    with sdk(server) as other:  # the connections of the first one may be broken

        def answers() -> bool:
            try:
                return bool(other.batches.retrieve(batch.id))
            except Exception:
                return False

        wait_for(answers, "a frontend")
        assert_each_line_once(other, ended(other, batch.id), 500)


def test_all_processes_die(launch: Launch, kept: list[str], tmp_path: Path) -> None:
    """Twice: while lines run, and some time after the next start."""
    store = f"sqlite:///{tmp_path / 'store.db'}"
    flags = [*FLAGS, "--response-store-url", store, "--file-dir", str(tmp_path / "files")]
    flags += ["--workers", "1", "--max-num-seqs", "32"]
    batch_id, done = "", 0
    for _ in range(2):
        server = launch(*flags, step_s=0.002)
        with sdk(server) as client:
            batch_id = batch_id or start(client, jsonl(LINES)).id
            last = done
            wait_for(lambda: done_lines(client, batch_id) > last + LINES // 8, "more lines", 60)  # noqa: B023
            done = done_lines(client, batch_id)
        kill_all(server)
    assert 0 < done < LINES
    server = launch(*flags, step_s=0.002)
    with sdk(server) as client:
        assert done_lines(client, batch_id) >= done
        assert_each_line_once(client, ended(client, batch_id), LINES)


def kill_all(server: Server) -> None:
    """Kill the launcher and all that it has started, at once."""
    launcher = psutil.Process(server.process.pid)
    processes = [launcher, *launcher.children(recursive=True)]
    for process in processes:
        process.suspend()  # so that none sees another's end
    for process in processes:
        process.kill()
    psutil.wait_procs(processes[1:], timeout=10)
    server.stop()


def test_live_requests_find_room(launch: Launch) -> None:
    """With a queue of none, a live request beside a batch is not rejected."""
    flags = ["--max-queue-requests", "0", "--max-num-seqs", "8", "--workers", "1"]
    server = launch(*FLAGS, *flags, step_s=0.005)
    with sdk(server) as client:
        batch = start(client, jsonl(300, max_tokens=60))
        wait_for(lambda: done_lines(client, batch.id) > 0, "some lines")

        def ask(number: int) -> int:
            body = line(number, max_tokens=20)["body"]
            with server.new_client() as http:
                return http.post(CHAT, json=body).status_code

        with ThreadPoolExecutor(3) as threads:
            statuses = list(threads.map(ask, range(40)))
        assert done_lines(client, batch.id) < 300, "the batch ended too soon to show anything"
        assert statuses == [200] * 40
        assert_each_line_once(client, ended(client, batch.id), 300)


def test_a_sleeping_pool_is_woken(launch: Launch) -> None:
    server = launch(*FLAGS, "--workers", "1", "--sleep-idle-seconds", "1", step_s=0.001)

    def state() -> str:
        groups = server.get("/health?verbose").json()["groups"]
        return str(groups[0]["workers"][0]["state"])

    wait_for(lambda: state() == "asleep", "sleep", 30)
    with sdk(server) as client:
        assert_each_line_once(client, ended(client, start(client, jsonl(50)).id), 50)
    wait_for(lambda: state() == "asleep", "sleep again", 30)
