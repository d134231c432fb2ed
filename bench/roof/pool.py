"""Run `headrace serve` and send requests to it."""

import asyncio
import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass

from bench.load import client
from bench.load.http import Server
from bench.load.layouts import CURRENT
from bench.load.prompts import Mix, Planned, session
from bench.load.records import Record
from bench.load.schedule import Load, run

START_TIMEOUT_S = 180.0
STOP_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class Pool:
    """A running pool. launcher: the id of its launcher process."""

    url: str
    launcher: int


@contextlib.contextmanager
def running_pool(flags: list[str]) -> Iterator[Pool]:
    """Run `headrace serve` with these flags until the end of the block."""
    command = [sys.executable, "-m", CURRENT.command, "serve", "--port", "0", *flags]
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        try:
            yield Pool(_wait(process, log.fileno()), process.pid)
        finally:
            _stop(process)


def send_all(url: str, mix: Mix, load: Load) -> list[Record]:
    """Run a load on the server's first model. Raises RuntimeError if a request fails."""
    records = asyncio.run(_send_all(url, mix, load))
    for record in records:
        if record.error:
            raise RuntimeError(f"a request failed: {record.error}")
    return records


async def _send_all(url: str, mix: Mix, load: Load) -> list[Record]:
    server = Server(url, {})
    target = client.Target(server, await client.first_model(server), "completions")

    async def send(planned: Planned) -> Record:
        return await client.measure(target, planned)

    records = await run(load, lambda index: session(mix, "completions", index), send)
    await server.close()
    return records


def _wait(process: subprocess.Popen[bytes], log: int) -> str:
    """Return the URL once the pool serves. Raises RuntimeError, with its log, if it fails."""
    deadline_s = time.monotonic() + START_TIMEOUT_S
    text = ""
    while time.monotonic() < deadline_s and process.poll() is None:
        text = os.pread(log, 2**20, 0).decode(errors="replace")
        found = re.search(r"^Headrace serves .* at (\S+)$", text, re.MULTILINE)
        if found:
            return found[1]
        time.sleep(0.1)
    raise RuntimeError(f"the pool did not start:\n{text}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
