"""Sides that are servers with /v1/embeddings; HTTP and the vectors' decoding count."""

import asyncio
import base64
import contextlib
import json
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.embed_peers.catalogue import Precision
from bench.embed_peers.install import PeerError, last_line
from bench.embed_peers.sides import (
    Calls,
    EmbedTurn,
    Vectors,
    on_cores,
    stopped,
    threads_environment,
    tree_memory,
)
from bench.load.fake_pools import wait_until_ready
from bench.load.http import HTTPFailure, Server
from bench.load.layouts import CURRENT, ROOT, environment

START_S = 180.0
DTYPES: Mapping[Precision, str] = {"fp32": "float32", "bf16": "bfloat16"}


@dataclass(frozen=True, slots=True)
class EmbedServerSettings:
    """How servers are started and asked. per_request: texts of a request; 0 for all of a call."""

    model: Path
    threads: int
    max_tokens: int
    per_request: int
    folder: Path


class EmbedServer:
    """A server and the connections to it."""

    batches = False

    def __init__(
        self, name: str, precision: Precision, url: str, pid: int, per_request: int
    ) -> None:
        self.name, self.precision, self.is_ours = name, precision, name.startswith("headrace")
        self._pid, self._per_request = pid, per_request
        self._runner, self._server = asyncio.Runner(), Server(url)

    def close(self) -> None:
        """Close the connections."""
        self._runner.run(self._server.close())
        self._runner.close()

    def run(self, calls: Calls, batch: int) -> EmbedTurn:
        """Answer the calls; the texts of one are asked for at the same time."""
        started = time.perf_counter()
        arrays = [self._runner.run(self._call(texts)) for texts in calls]
        seconds = time.perf_counter() - started
        checksum = sum(float(array.sum(dtype=np.float64)) for array in arrays)
        return EmbedTurn(sum(map(len, arrays)), seconds, checksum)

    def vectors(self, texts: Sequence[str], batch: int) -> Vectors:
        """Return the vectors of texts."""
        return self._runner.run(self._call(texts))

    def memory(self) -> list[float]:
        """Return the resident memory of each of its processes in MB."""
        return tree_memory(self._pid)

    async def _call(self, texts: Sequence[str]) -> Vectors:
        size = self._per_request or len(texts)
        parts = [texts[start : start + size] for start in range(0, len(texts), size)]
        return np.concatenate(await asyncio.gather(*map(self._request, parts)))

    async def _request(self, texts: Sequence[str]) -> Vectors:
        body = json.dumps({"model": "measured", "input": texts, "encoding_format": "base64"})
        try:
            async with self._server.request("POST", "/v1/embeddings", body.encode()) as response:
                answer = await response.read()
        except (HTTPFailure, OSError) as error:
            raise PeerError(f"{self.name}: {error or type(error).__name__}") from error
        if response.status != 200:
            raise PeerError(f"HTTP {response.status}: {answer[:200].decode(errors='replace')}")
        data = sorted(json.loads(answer)["data"], key=lambda item: int(item["index"]))
        return np.stack([_decode(item["embedding"]) for item in data])


def _decode(embedding: str | list[float]) -> Vectors:
    """Read a vector, also of a server that sends numbers in spite of the format."""
    if isinstance(embedding, str):
        return np.frombuffer(base64.b64decode(embedding), np.float32)
    return np.array(embedding, np.float32)


@contextlib.contextmanager
def headrace(
    precision: Precision, settings: EmbedServerSettings, flags: Sequence[str]
) -> Iterator[EmbedServer]:
    """Run a pool of one worker and one frontend. Raises PeerError if it does not start."""
    name, threads = f"headrace-{precision}", settings.threads
    command = [sys.executable, "-m", CURRENT.command, "serve", str(settings.model), "--port", "0"]
    command += ["--served-model-name", "measured", "--workers", "1", "--frontends", "1"]
    command += ["--threads", str(threads), "--run-dir", str(settings.folder / name)]
    command += ["--max-model-len", str(settings.max_tokens)]
    int8 = ["--dtype", "bfloat16", "--quantization", "int8"]
    command += int8 if precision == "int8" else ["--dtype", DTYPES[precision]]
    log, variables = settings.folder / f"{name}.log", environment(ROOT)
    with log.open("w") as out, on_cores(threads):
        process = subprocess.Popen(
            [*command, *flags], stdout=out, stderr=out, env=variables, cwd=ROOT, text=True
        )
    with stopped(process):
        try:
            url = wait_until_ready(process, log)
        except SystemExit as error:
            raise PeerError(last_line(str(error))) from None
        yield from _connected(name, precision, url, process.pid, settings)


@contextlib.contextmanager
def infinity(
    name: str, precision: Precision, settings: EmbedServerSettings, python: Path
) -> Iterator[EmbedServer]:
    """Run infinity's server. Raises PeerError if it does not start."""
    command = [str(python.with_name("infinity_emb")), "v2", "--model-id", str(settings.model)]
    command += ["--served-model-name", "measured", "--engine", "torch", "--device", "cpu"]
    command += ["--dtype", DTYPES[precision], "--url-prefix", "/v1", "--host", "127.0.0.1"]
    command += ["--no-model-warmup", "--log-level", "error"]
    variables = threads_environment(settings.threads)
    yield from _served(name, precision, command, settings, variables)


@contextlib.contextmanager
def llama(
    folder: Path, file: Path, precision: Precision, settings: EmbedServerSettings
) -> Iterator[EmbedServer]:
    """Run llama.cpp's server. folder: of `llama-server`. Raises PeerError if it does not start."""
    threads, slots = str(settings.threads), 32
    command = [str(folder / "llama-server"), "-m", str(file), "--embeddings", "--no-ui"]
    command += ["--threads", threads, "--threads-batch", threads, "-np", str(slots)]
    command += ["-c", str(slots * settings.max_tokens), "-b", "4096", "-ub", "4096"]
    variables = {**threads_environment(settings.threads), "LD_LIBRARY_PATH": str(folder)}
    yield from _served(f"llama.cpp-{precision}", precision, command, settings, variables)


def _served(
    name: str,
    precision: Precision,
    command: Sequence[str],
    settings: EmbedServerSettings,
    variables: Mapping[str, str],
) -> Iterator[EmbedServer]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log, url = settings.folder / f"{name}.log", f"http://127.0.0.1:{port}"
    with log.open("w") as out, on_cores(settings.threads):
        process = subprocess.Popen(
            [*command, "--port", str(port)], stdout=out, stderr=out, env=variables, text=True
        )
    with stopped(process):
        deadline = time.monotonic() + START_S
        while not _is_healthy(url):
            if process.poll() is not None or time.monotonic() > deadline:
                raise PeerError(last_line(log.read_text(errors="replace")) or "did not start")
            time.sleep(0.1)
        yield from _connected(name, precision, url, process.pid, settings)


def _is_healthy(url: str) -> bool:
    with contextlib.suppress(OSError), urllib.request.urlopen(f"{url}/health"):
        return True
    return False


def _connected(
    name: str, precision: Precision, url: str, pid: int, settings: EmbedServerSettings
) -> Iterator[EmbedServer]:
    server = EmbedServer(name, precision, url, pid, settings.per_request)
    try:
        yield server
    finally:
        server.close()
