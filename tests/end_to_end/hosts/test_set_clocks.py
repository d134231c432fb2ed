"""A wall clock that is set forward and back by hours while a pool serves."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from tests.end_to_end.clients import Clients, clients
from tests.end_to_end.servers import Launch, Server, wait_for

HOUR = 3600
SOURCE = Path(__file__).with_name("set_clock.c")
FLAGS = ("--frontends", "2", "--workers", "2", "--served-model-name", "fake")
STEP_S = 0.02
EXPIRES = {"expires_after[anchor]": "created_at", "expires_after[seconds]": str(HOUR)}
CUT = "incomplete"  # how a response ends that reaches its length
LONG = {"model": "fake", "input": "hello", "max_output_tokens": 500, "ignore_eos": True}


class SetClock:
    """The wall clock of a pool's processes, which is ahead of the machine's."""

    def __init__(self, folder: Path) -> None:
        self._file, library = folder / "ahead", folder / "set_clock.so"
        self.set(0)
        build = ["cc", "-O1", "-shared", "-fPIC", "-o", str(library), str(SOURCE), "-ldl"]
        subprocess.run(build, check=True)
        self.variables = {"LD_PRELOAD": str(library), "SET_CLOCK_FILE": str(self._file)}

    def set(self, ahead_s: int) -> None:
        self._file.touch()
        with self._file.open("r+b", buffering=0) as file:
            file.write((ahead_s * 10**9).to_bytes(8, sys.byteorder, signed=True))


@pytest.fixture
def clock(tmp_path: Path) -> SetClock:
    if shutil.which("cc") is None:
        pytest.skip("needs a C compiler")
    return SetClock(tmp_path)


@pytest.fixture
def server(launch: Launch, clock: SetClock, tmp_path: Path) -> Iterator[Server]:
    stores = ["--response-store-url", f"sqlite:///{tmp_path}/store.db"]
    stores += ["--file-dir", str(tmp_path / "files")]
    server = launch(*FLAGS, *stores, step_s=STEP_S, variables=clock.variables)
    yield server
    server.stop()


def respond(server: Server, **changes: object) -> dict[str, Any]:
    with server.new_client() as client:
        answer = client.post("/v1/responses", json={**LONG, **changes})
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def upload(server: Server, text: str, **fields: str) -> str:
    files, data = {"file": ("data.jsonl", text)}, {"purpose": "batch", **fields}
    return str(server.client.post("/v1/files", files=files, data=data).json()["id"])


def begin_batch(server: Server, count: int) -> str:
    lines = [
        json.dumps(
            {
                "custom_id": str(number),
                "method": "POST",
                "url": "/v1/completions",
                "body": {"model": "fake", "prompt": "hello", "max_tokens": 300, "ignore_eos": True},
            }
        )
        for number in range(count)
    ]
    body = {
        "input_file_id": upload(server, "\n".join(lines)),
        "endpoint": "/v1/completions",
        "completion_window": "24h",
    }
    return str(server.client.post("/v1/batches", json=body).json()["id"])


def status(server: Server, path: str) -> str:
    return str(server.get(path).json()["status"])


def await_ends(server: Server, responses: list[str], batch: str) -> None:
    """Wait until all have ended as they would have with a clock that goes on evenly."""

    def have_ended() -> bool:
        return all(status(server, path) == CUT for path in responses)

    wait_for(have_ended, "they end", 60)
    wait_for(lambda: status(server, batch) == "completed", "it ends", 60)


def more_answers(asking: Clients, count: int = 8) -> None:
    answered = asking.outcomes["whole"]
    wait_for(lambda: asking.outcomes["whole"] > answered + count, "requests are answered")


def test_nothing_is_lost(server: Server, clock: SetClock) -> None:
    before = [each.pid for each in server.children()]
    kept = [
        f"/v1/responses/{respond(server, max_output_tokens=2)['id']}",
        f"/v1/files/{upload(server, 'x')}",
        f"/v1/files/{upload(server, 'x', **EXPIRES)}",
    ]
    began = respond(server, max_output_tokens=1)["created_at"]
    running = [f"/v1/responses/{respond(server, background=True)['id']}" for _ in range(4)]
    batch = f"/v1/batches/{begin_batch(server, 4)}"
    ends: list[str] = []
    foreground = [Thread(target=lambda: ends.append(respond(server)["status"])) for _ in range(4)]
    for each in foreground:
        each.start()
    with clients(server, 4) as asking:
        for ahead_s in (30 * HOUR, -30 * HOUR, 2 * HOUR, 0):
            clock.set(ahead_s)
            more_answers(asking)
            shown = respond(server, max_output_tokens=1)["created_at"]
            assert abs(shown - began - ahead_s) < HOUR, "the processes see that it was set"
        for each in foreground:
            each.join()
        await_ends(server, running, batch)
    assert set(asking.outcomes) == {"whole"}
    assert ends == [CUT] * 4
    assert [server.get(path).status_code for path in kept] == [200] * 3
    assert [each.pid for each in server.children()] == before
    for words in ("resuming response", "continuing batch", "by another frontend", "Traceback"):
        assert words not in server.log


@pytest.mark.parametrize("ahead_s", [30 * HOUR, -30 * HOUR])
def test_a_dead_frontends_responses_are_resumed(
    server: Server, clock: SetClock, ahead_s: int
) -> None:
    running = [f"/v1/responses/{respond(server, background=True)['id']}" for _ in range(4)]
    clock.set(ahead_s)
    for each in server.children("headrace.frontend.main"):
        each.kill()
    wait_for(lambda: "resuming response" in server.log, "another frontend takes them", 60)
    batch = f"/v1/batches/{begin_batch(server, 2)}"
    await_ends(server, running, batch)
