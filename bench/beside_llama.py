"""Measure Headrace and llama.cpp's server side by side, both with the same GGUF.

    python -m bench.beside_llama MODEL.gguf --llama FOLDER [--cpu-kernels avx2] [--rounds 3]

FOLDER holds `llama-server`. Both servers run all the time; one is loaded at a time, in turn, since
only ratios of one round mean something. llama.cpp's threads wait for each other in busy loops: a
machine with other work slows it down far more than Headrace, so measure on a quiet one. The loads:

streams   random prompts of 128 tokens, outputs of 64, EOS ignored: output tokens/s (bench.compare)
prompts   one prompt of 512 tokens, one of 4,000, one token out: prompt tokens/s
turns     the prompt of 4,000 tokens with its output and some more tokens: the time to the first
          token over that of the first turn, of each server with its cache of prompts
memory    resident memory of the processes that run the model, after all that

Unknown flags go to `headrace serve`.
"""

import argparse
import asyncio
import contextlib
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from bench import compare
from bench.load.client import StreamError, Target, first_model, measure
from bench.load.fake_pools import wait_until_ready
from bench.load.http import Server
from bench.load.layouts import CURRENT, ROOT, environment
from bench.load.prompts import FIRST_TOKEN_ID, Planned

VOCABULARY = 30_000
PROMPTS = (512, 4000)
OUTPUT, QUESTION = 16, 24  # tokens of a first turn's output, and of what the second one adds
LLAMA_START_S = 120.0


@dataclass(frozen=True, slots=True)
class Started:
    """A server: its URL, the process that runs the model, and how long it took to be ready."""

    url: str
    engine: psutil.Process
    start_s: float


@contextlib.contextmanager
def headrace(model: Path, threads: int, flags: Sequence[str]) -> Iterator[Started]:
    """Run a pool of one worker and one frontend."""
    with tempfile.TemporaryDirectory(prefix="hr-") as folder:
        command = [sys.executable, "-m", CURRENT.command, "serve", str(model), "--port", "0"]
        command += ["--workers", "1", "--frontends", "1", "--threads", str(threads)]
        command += ["--kv-cache-memory-bytes", "1GiB", "--run-dir", f"{folder}/run", *flags]
        log, started = Path(folder, "log"), time.monotonic()
        with log.open("w") as out:
            process = subprocess.Popen(
                command, stdout=out, stderr=subprocess.STDOUT, env=environment(ROOT), cwd=ROOT
            )
        with _stopped(process):
            url = wait_until_ready(process, log)
            start_s = time.monotonic() - started
            children = psutil.Process(process.pid).children()
            # The worker is what has the most memory of its own: others share what it was forked of.
            yield Started(url, max(children, key=lambda each: each.memory_info().rss), start_s)


@contextlib.contextmanager
def llama(folder: Path, model: Path, threads: int, flags: Sequence[str]) -> Iterator[Started]:
    """Run llama.cpp's server."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(folder / "llama-server"), "-m", str(model), "--port", str(port), "--no-ui"]
    command += ["--threads", str(threads), "--threads-batch", str(threads), "-cram", "0", *flags]
    libraries = {**os.environ, "LD_LIBRARY_PATH": str(folder)}
    started, url = time.monotonic(), f"http://127.0.0.1:{port}"
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=libraries
    )
    with _stopped(process):
        while not _answers(url):
            if process.poll() is not None or time.monotonic() > started + LLAMA_START_S:
                raise SystemExit("llama-server did not start")
            time.sleep(0.02)
        yield Started(url, psutil.Process(process.pid), time.monotonic() - started)


@contextlib.contextmanager
def _stopped(process: "subprocess.Popen[bytes]") -> Iterator[None]:
    try:
        yield
    finally:
        process.terminate()
        process.wait()


def _answers(url: str) -> bool:
    with contextlib.suppress(OSError), urllib.request.urlopen(f"{url}/health"):
        return True
    return False


def streams(sides: tuple[Started, Started], given: argparse.Namespace) -> None:
    """Compare output tokens/s."""
    urls = [side.url for side in sides]
    options = ["--concurrency", given.streams, "--rounds", str(given.rounds)]
    compare.main([*urls, *options, "--requests-per-stream", str(given.requests_per_stream)])


async def prompts_and_turns(sides: tuple[Started, Started], rounds: int) -> None:
    """Compare prompt tokens/s, and the time to the first token of a second turn."""
    rates: dict[int, list[list[float]]] = {length: [[], []] for length in PROMPTS}
    turns: list[list[float]] = [[], []]
    for number in range(-1, rounds):  # the first only warms up
        for index in (0, 1) if number % 2 == 0 else (1, 0):
            for length in PROMPTS:
                first_s, second_s = await _two_turns(sides[index].url, length)
                if number >= 0:
                    rates[length][index].append(length / first_s)
                    if length == max(PROMPTS):
                        turns[index].append(second_s / first_s)
    for length, (a, b) in rates.items():
        ratios = [one / other for one, other in zip(a, b, strict=True)]
        print(
            f"prompt of {length}: A {statistics.median(a):.0f}, B {statistics.median(b):.0f} "
            f"tokens/s, A/B {statistics.median(ratios):.3f}, "
            f"rounds {min(ratios):.2f} to {max(ratios):.2f}",
            flush=True,
        )
    a_turn, b_turn = map(statistics.median, turns)
    print(f"second turn over first, to the first token: A {a_turn:.3f}, B {b_turn:.3f}", flush=True)


async def _two_turns(url: str, length: int) -> tuple[float, float]:
    """Return the seconds to the first token of a prompt, and of that prompt with more behind it."""
    server = Server(url, {})
    try:
        target = Target(server, await first_model(server), "completions")
        ids = [random.randrange(FIRST_TOKEN_ID, VOCABULARY) for _ in range(length + QUESTION)]
        seconds = []
        for count in (length, length + QUESTION):
            planned = Planned({"prompt": ids[:count]}, count, OUTPUT)
            record = await measure(target, planned)
            if record.error:
                raise StreamError(f"{url}: {record.error}")
            seconds.append(record.ttft_s)
        return seconds[0], seconds[1]
    finally:
        await server.close()


def main() -> None:
    """Run the loads of the command line."""
    parser = argparse.ArgumentParser(prog="bench.beside_llama")
    add = parser.add_argument
    add("model", type=Path, metavar="MODEL.gguf")
    add("--llama", type=Path, required=True, metavar="FOLDER", help="the folder of llama-server")
    add("--threads", type=int, default=os.cpu_count() or 1, help="of each server")
    add("--streams", default="1,16,64", help="streams at once; empty for none")
    add("--rounds", type=int, default=3)
    add("--requests-per-stream", type=int, default=1, help="in each round, at least 4 in all")
    add("--no-prompts", action="store_true", help="leave out prompts and turns")
    given, flags = parser.parse_known_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # the servers end, too
    slots = ["-np", "64", "-c", "16384", "--no-cache-prompt", "-no-kvu"]
    with headrace(given.model, given.threads, flags) as ours:
        if given.streams:
            with llama(given.llama, given.model, given.threads, slots) as theirs:
                print(f"ready after: A {ours.start_s:.1f} s, B {theirs.start_s:.1f} s", flush=True)
                streams((ours, theirs), given)
                _show_memory(ours, theirs)
        if not given.no_prompts:
            with llama(given.llama, given.model, given.threads, ["-np", "1", "-c", "8192"]) as one:
                asyncio.run(prompts_and_turns((ours, one), given.rounds))
                _show_memory(ours, one)


def _show_memory(*sides: Started) -> None:
    a, b = (side.engine.memory_info().rss / 1e6 for side in sides)
    print(f"resident: A's worker {a:.0f} MB, B {b:.0f} MB, A/B {a / b:.2f}", flush=True)


if __name__ == "__main__":
    main()
