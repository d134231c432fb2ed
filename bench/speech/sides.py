"""Sides of the comparison that transcribe: Headrace over HTTP, libraries in their processes."""

import asyncio
import contextlib
import json
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from bench.embed_peers.install import PeerError
from bench.embed_peers.sides import on_cores, stopped, threads_environment, tree_memory
from bench.load.fake_pools import wait_until_ready
from bench.load.http import HTTPFailure, Server
from bench.load.layouts import CURRENT, ROOT, environment
from bench.speech.catalogue import Precision, SpeechPeer
from bench.speech.errors import Segments
from bench.speech.material import Recording

INSIDE = Path(__file__).parent / "inside"
FLAGS: Mapping[Precision, Sequence[str]] = {
    "fp32": ("--dtype", "float32"),
    "bf16": ("--dtype", "bfloat16"),
    "int8": ("--dtype", "bfloat16", "--quantization", "int8"),
}
# Greedy, and no window a second time at a higher temperature: as the peers are asked.
FIELDS = {"temperature": "0", "temperature_fallback": "false"}


@dataclass(frozen=True, slots=True)
class SpeechTurn:
    """Recordings that one side has transcribed. audio: their seconds in all."""

    audio: float
    seconds: float
    texts: Sequence[str]
    segments: Sequence[Segments] = ()

    @property
    def rate(self) -> float:
        """Seconds of audio a second."""
        return self.audio / self.seconds


@dataclass(frozen=True, slots=True)
class Task:
    """What is asked of a side. times: whether segments are wanted. translated: into English."""

    recordings: Sequence[Recording]
    at_once: int = 1
    batch: int = 8
    times: bool = False
    translated: bool = False

    @property
    def audio(self) -> float:
        """Seconds of all recordings."""
        return sum(recording.seconds for recording in self.recordings)


class SpeechSide(Protocol):
    """A side. batches: whether the caller chooses how many windows it runs together."""

    name: str
    precision: Precision
    is_ours: bool
    batches: bool

    def run(self, task: Task) -> SpeechTurn:
        """Transcribe recordings of one language. Raises PeerError if it cannot."""

    def memory(self) -> list[float]:
        """Return the resident memory of each of its processes in MB, the largest first."""


class SpeechServer:
    """Headrace's server and the connections to it."""

    is_ours, batches = True, False

    def __init__(self, name: str, precision: Precision, url: str, pid: int) -> None:
        self.name, self.precision, self._pid = name, precision, pid
        self._runner, self._server = asyncio.Runner(), Server(url)

    def close(self) -> None:
        """Close the connections."""
        self._runner.run(self._server.close())
        self._runner.close()

    def run(self, task: Task) -> SpeechTurn:
        """Upload the recordings, so many at once."""
        started = time.perf_counter()
        answers = self._runner.run(self._all(task))
        seconds = time.perf_counter() - started
        segments = [
            [(each["start"], each["end"], each["text"]) for each in answer.get("segments") or ()]
            for answer in answers
        ]
        texts = [str(answer["text"]).strip() for answer in answers]
        return SpeechTurn(task.audio, seconds, texts, segments if task.times else ())

    def memory(self) -> list[float]:
        """Return the resident memory of each of its processes in MB."""
        return tree_memory(self._pid)

    async def _all(self, task: Task) -> list[dict[str, Any]]:
        limit = asyncio.Semaphore(task.at_once)

        async def one(recording: Recording) -> dict[str, Any]:
            async with limit:
                return await self._one(recording, task)

        return await asyncio.gather(*map(one, task.recordings))

    async def _one(self, recording: Recording, task: Task) -> dict[str, Any]:
        fields = {**FIELDS, "model": "measured", "language": recording.language}
        fields["response_format"] = "verbose_json" if task.times else "json"
        route = "translations" if task.translated else "transcriptions"
        body, content_type = multipart(fields, recording.path)
        try:
            asked = self._server.request("POST", f"/v1/audio/{route}", body, content_type)
            async with asked as response:
                answer = await response.read()
        except (HTTPFailure, OSError) as error:
            raise PeerError(f"{self.name}: {error or type(error).__name__}") from error
        if response.status != 200:
            raise PeerError(f"HTTP {response.status}: {answer[:200].decode(errors='replace')}")
        parsed: dict[str, Any] = json.loads(answer)
        return parsed


def multipart(fields: Mapping[str, str], file: Path) -> tuple[bytes, str]:
    """Return a form with a file, and its content type."""
    boundary = secrets.token_hex(16)
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
        for name, value in fields.items()
    ]
    parts.append(
        f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{file.name}"\r\n'
        "Content-Type: application/octet-stream\r\n\r\n"
    )
    body = "".join(parts).encode() + file.read_bytes() + f"\r\n--{boundary}--\r\n".encode()
    return body, f"multipart/form-data; boundary={boundary}"


@contextlib.contextmanager
def headrace(
    precision: Precision, model: Path, threads: int, folder: Path, flags: Sequence[str]
) -> Iterator[SpeechServer]:
    """Run a pool of one worker and one frontend. Raises PeerError if it does not start."""
    name = f"headrace-{precision}"
    command = [sys.executable, "-m", CURRENT.command, "serve", str(model), "--port", "0"]
    command += ["--served-model-name", "measured", "--workers", "1", "--frontends", "1"]
    command += ["--threads", str(threads), "--run-dir", str(folder / name)]
    command += ["--max-audio-clip-filesize-mb", "200", *FLAGS[precision], *flags]
    log = folder / f"{name}.log"
    with log.open("w") as out, on_cores(threads):
        process = subprocess.Popen(
            command, stdout=out, stderr=out, env=environment(ROOT), cwd=ROOT, text=True
        )
    with stopped(process):
        try:
            url = wait_until_ready(process, log)
        except SystemExit as error:
            raise PeerError(told(str(error))) from None
        server = SpeechServer(name, precision, url, process.pid)
        try:
            yield server
        finally:
            server.close()


class SpeechProcess:
    """A library in a process of its own, asked over its pipes."""

    is_ours = False

    def __init__(self, peer: SpeechPeer, process: "subprocess.Popen[str]", log: Path) -> None:
        self.name, self.precision, self.batches = peer.name, peer.precision, peer.batches
        self._process, self._log = process, log

    def wait_until_ready(self) -> None:
        """Wait until the model is loaded. Raises PeerError if it does not load."""
        self._read()

    def run(self, task: Task) -> SpeechTurn:
        """Transcribe recordings; the seconds are the process's own, without the pipes."""
        request = {
            "files": [str(recording.path.resolve()) for recording in task.recordings],
            "at_once": task.at_once,
            "language": task.recordings[0].language,
            "task": "translate" if task.translated else "transcribe",
            "batch": task.batch,
            "times": task.times,
        }
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # the answer tells why
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        answer = self._read()
        segments = answer.get("segments", ())
        return SpeechTurn(task.audio, float(answer["seconds"]), answer["texts"], segments)

    def memory(self) -> list[float]:
        """Return its resident memory in MB."""
        return tree_memory(self._process.pid)

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise PeerError(told(self._log.read_text(errors="replace")) or "it ended")
        answer: dict[str, Any] = json.loads(line)
        return answer


def told(log: str) -> str:
    """Return the line of a log that tells why a process has ended."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    reasons = [line for line in lines if "error" in line.lower() or "ASSERT" in line]
    return (reasons or lines or [""])[-1][:300]


@contextlib.contextmanager
def library(
    peer: SpeechPeer, python: Path, model: Path, threads: int, folder: Path
) -> Iterator[SpeechProcess]:
    """Run inside/transcriber.py in a peer's environment. folder: of its log."""
    log = folder / f"{peer.name}.log"
    command = [str(python), str(INSIDE / "transcriber.py"), peer.runtime, str(model.resolve())]
    with log.open("w") as err, on_cores(threads):
        process = subprocess.Popen(
            [*command, peer.precision, str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=err,
            text=True,
            env=threads_environment(threads),
            cwd=folder,
        )
    with stopped(process):
        side = SpeechProcess(peer, process, log)
        side.wait_until_ready()
        yield side
