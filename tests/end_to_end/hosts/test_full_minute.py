"""A minute without space for the run directory, the model cache and all that clients store."""

import re
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.end_to_end.clients import clients
from tests.end_to_end.servers import Launch, Server, wait_for
from tests.small_file_systems import fill, small_tmpfs

FULL_S = 60.0
SIZE = 16 << 20
ENDS = re.compile(r"event: response\.(completed|incomplete)|data: \[DONE\]\s*$")
# Runs for longer than the disk is full.
LONG_TOKENS, STEP_S = 1600, 0.05
LONG = {"input": "hello", "max_output_tokens": LONG_TOKENS, "ignore_eos": True, "model": "fake"}
SHORT = {"input": "hello", "max_output_tokens": 5, "model": "fake"}


class LongStream(threading.Thread):
    """A stream that is begun before the disk is full, and ends when it no longer is."""

    def __init__(self, server: Server, path: str, body: dict[str, Any]) -> None:
        super().__init__()
        self._server, self._path, self._body = server, path, {**body, "stream": True}
        self.has_begun = threading.Event()
        self.text = ""
        self.start()

    def run(self) -> None:
        with (
            self._server.new_client() as client,
            client.stream("POST", self._path, json=self._body, timeout=FULL_S + 120) as answer,
        ):
            for line in answer.iter_lines():
                self.text += line + "\n"
                self.has_begun.set()


def ask(server: Server, **changes: object) -> httpx.Response:
    with server.new_client() as client:
        try:
            return client.post("/v1/responses", json={**SHORT, **changes})
        except httpx.HTTPError as error:
            pids = [each.pid for each in server.children()]
            error.add_note(f"processes {pids}, log:\n{server.log[-5000:]}")
            raise


def upload(server: Server) -> httpx.Response:
    files = {"file": ("data.jsonl", b"x" * 100_000)}
    with server.new_client() as client:
        return client.post("/v1/files", files=files, data={"purpose": "batch"})


@pytest.mark.timeout(FULL_S + 240)
def test_no_request_is_lost_and_the_stores_recover(launch: Launch, tmp_path: Path) -> None:
    with small_tmpfs(tmp_path / "small", SIZE) as disk:
        flags = ["--frontends", "2", "--workers", "2", "--served-model-name", "fake"]
        flags += ["--response-store-url", f"sqlite:///{disk}/responses.db"]
        flags += ["--file-dir", str(disk / "files")]
        server = launch(*flags, run_dir=disk / "run", step_s=STEP_S, cache_dir=disk / "cache")
        before = [each.pid for each in server.children()]
        stored = ask(server, store=True).json()["id"]
        assert upload(server).status_code == 200
        long = [
            LongStream(server, "/v1/responses", {**LONG, "store": True}),
            LongStream(server, "/v1/responses", {**LONG, "store": False}),
            LongStream(
                server,
                "/v1/completions",
                {"prompt": "hello", "max_tokens": LONG_TOKENS, "ignore_eos": True},
            ),
        ]
        for each in long:
            each.has_begun.wait(30)
        with clients(server, 4) as asking:
            filler = fill(disk)
            full_until = time.monotonic() + FULL_S
            statuses: dict[str, set[int]] = {"stored": set(), "other": set(), "file": set()}
            while time.monotonic() < full_until:
                fill(disk)  # also what has been given back meanwhile
                statuses["stored"].add(ask(server, store=True).status_code)
                statuses["other"].add(ask(server, store=False).status_code)
                statuses["file"].add(upload(server).status_code)
                assert server.get("/health").status_code == 200
                time.sleep(1)
            filler.unlink()
            for each in long:
                each.join(FULL_S + 60)
        assert set(asking.outcomes) == {"whole"}
        assert statuses["other"] == {200}
        assert statuses["stored"] <= {200, 503}
        assert statuses["file"] <= {503, 507}
        assert all(ENDS.search(each.text) for each in long), "each stream has its end"
        wait_for(lambda: ask(server, store=True).status_code == 200, "the store is back")
        wait_for(lambda: upload(server).status_code == 200, "files are taken again")
        assert server.get(f"/v1/responses/{stored}").status_code == 200
        assert [each.pid for each in server.children()] == before
        assert "Traceback" not in server.log
        assert server.stop() == 0
