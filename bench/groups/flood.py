"""Measure what a flood of embeddings costs the chats of the same pool.

A pool has two groups on the same cores: chats of the default model, and MODEL_FOLDER, which embeds.
Chats stream alone and beside a flood of embeddings, in turn: requests of 256 texts of 16 to 256
tokens, one after the other, as many of them at once as --floods says. Times between tokens are
those that the client sees; the flood's other end runs in a process of its own with a lower
priority, so that the client itself costs the chats little.

    python -m bench.groups.flood MODEL_FOLDER [--streams 4] [--rounds 3]

Unknown flags go to `headrace serve`. `--group-keys` and `--flood-keys` are lines of the two groups
in the pool's file. Exits with status 1 if a request failed.
"""

import argparse
import asyncio
import contextlib
import itertools
import json
import multiprocessing
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.embed_peers.texts import Texts, max_tokens
from bench.load.client import Target, measure
from bench.load.fake_pools import wait_until_ready
from bench.load.http import HTTPFailure, Server
from bench.load.layouts import CURRENT, ROOT, environment
from bench.load.prompts import Mix, Planned, session
from bench.load.records import Record
from bench.load.schedule import Load, run

TEXTS = 256
FLOOD_NICENESS = 19
SESSIONS_OF_TURN = 1_000_000  # no prompt is in a prefix cache
SUCCESS = r'^headrace:request_success_total\{.*"stop".*model_name="texts"\} (\S+)$'
REQUESTS = 8  # bodies of a flood, which takes them in turn


@dataclass(frozen=True, slots=True)
class ChatTurn:
    """The seconds between tokens of all streams, and the errors of those that failed."""

    gaps: list[float]
    errors: list[str]

    def percentile(self, number: int) -> float:
        """Return a percentile of the gaps."""
        return statistics.quantiles(self.gaps, n=100)[number - 1]


def main(arguments: list[str] | None = None) -> int:
    """Measure in turn and print the ratios; return the exit status."""
    given, flags = _parse(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    bodies = _bodies(given.model)
    with _pool(given, flags) as url, asyncio.Runner() as runner:
        server = Server(url)
        try:
            runner.run(_chats(server, given, 0, 0.1))  # the first steps are slow
            turns: dict[str, list[ChatTurn]] = {"alone": [], "beside": []}
            for number in range(given.rounds):
                for name in ("alone", "beside") if number % 2 == 0 else ("beside", "alone"):
                    floods = given.floods if name == "beside" else 0
                    with _flood(url, bodies, floods) as rate:
                        first = (2 * number + (name == "beside") + 1) * SESSIONS_OF_TURN
                        turn = runner.run(_chats(server, given, first, given.seconds))
                        turns[name].append(turn)
                        print(_line(number, name, turn, rate()), flush=True)
        finally:
            runner.run(server.close())
    for percentile in (50, 99):
        ratios = [
            beside.percentile(percentile) / alone.percentile(percentile)
            for alone, beside in zip(turns["alone"], turns["beside"], strict=True)
        ]
        spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
        print(f"p{percentile}: {statistics.median(ratios):.2f} x alone ({spread})")
    return int(any(turn.errors for all_ in turns.values() for turn in all_))


async def _chats(server: Server, given: argparse.Namespace, first: int, seconds: float) -> ChatTurn:
    """Stream chats for so long, one after the other in each stream."""
    target = Target(server, "chats", "chat")
    mix = Mix(prompt_tokens=32, output_tokens=given.tokens)

    def make_session(index: int) -> list[Planned]:
        return session(mix, "chat", first + index)

    async def send(planned: Planned) -> Record:
        return await measure(target, planned)

    records = await run(Load(given.streams, duration_s=seconds), make_session, send)
    gaps = [
        after - before
        for record in records
        for before, after in itertools.pairwise(record.chunk_times_s)
    ]
    return ChatTurn(gaps, [record.error for record in records if record.error])


def _line(number: int, name: str, turn: ChatTurn, rate: float) -> str:
    shown = ", ".join(f"p{p} {turn.percentile(p) * 1000:.1f} ms" for p in (50, 90, 99))
    beside = f", {rate:.0f} texts/s beside" if name == "beside" else ""
    failed = f", {len(turn.errors)} FAILED: {turn.errors[0]}" if turn.errors else ""
    longest = f"longest {max(turn.gaps) * 1000:.0f} ms"
    return f"round {number}, {name}: {len(turn.gaps)} gaps, {shown}, {longest}{beside}{failed}"


@contextlib.contextmanager
def _flood(url: str, bodies: Sequence[bytes], count: int) -> Iterator[Callable[[], float]]:
    """Flood the pool meanwhile; yield what returns the texts a second since then."""
    if not count:
        yield lambda: 0.0
        return
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=_embed_on, args=(url, bodies, count), daemon=True)
    before = _texts_done(url)
    process.start()
    try:
        while _texts_done(url) == before:
            if not process.is_alive():
                raise SystemExit("the flood has ended")
            time.sleep(0.05)
        done, started = _texts_done(url), time.perf_counter()
        yield lambda: (_texts_done(url) - done) / (time.perf_counter() - started)
    finally:
        process.terminate()
        process.join()


def _texts_done(url: str) -> float:
    with urllib.request.urlopen(f"{url}/metrics") as answer:
        found = re.findall(SUCCESS, answer.read().decode(), re.MULTILINE)
    return sum(map(float, found))


def _embed_on(url: str, bodies: Sequence[bytes], count: int) -> None:
    """Send requests for embeddings until this process is ended."""
    os.nice(FLOOD_NICENESS)
    with contextlib.suppress(OSError):  # sessions' weights are where Linux groups tasks by session
        os.setsid()
        Path("/proc/self/autogroup").write_text(str(FLOOD_NICENESS))

    async def run(number: int, server: Server) -> None:
        while True:
            body = bodies[number % len(bodies)]
            async with server.request("POST", "/v1/embeddings", body) as response:
                await response.read()
            if response.status != 200:
                raise HTTPFailure(f"HTTP {response.status}")
            number += count

    async def run_all() -> None:
        server = Server(url)
        await asyncio.gather(*[run(number, server) for number in range(count)])

    asyncio.run(run_all())


def _bodies(model: Path) -> list[bytes]:
    texts = Texts(model, max_tokens(model))
    fields = {"model": "texts", "encoding_format": "base64"}
    return [
        json.dumps({**fields, "input": texts.make("mixed", TEXTS)}).encode()
        for _ in range(REQUESTS)
    ]


@contextlib.contextmanager
def _pool(given: argparse.Namespace, flags: Sequence[str]) -> Iterator[str]:
    """Run a pool of both groups; yield its URL."""
    chats = {"name": "chats", "served_model_name": "chats"}
    if given.chat_model:
        chats["model"] = given.chat_model
    texts = {"name": "texts", "served_model_name": "texts", "model": str(given.model)}
    with tempfile.TemporaryDirectory(prefix="hr-") as folder:
        file = Path(folder, "pool.toml")
        file.write_text(
            _table(chats, given.group_keys) + _table(texts, given.flood_keys), encoding="utf-8"
        )
        log = Path(folder, "log")
        command = [sys.executable, "-m", CURRENT.command, "serve", "--config", str(file)]
        command += ["--port", "0", "--run-dir", f"{folder}/run", *flags]
        with log.open("w") as out:
            process = subprocess.Popen(
                command, stdout=out, stderr=subprocess.STDOUT, env=environment(ROOT), cwd=ROOT,
                start_new_session=True,
            )  # fmt: skip
        try:
            yield wait_until_ready(process, log)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()
            if given.log:
                print(log.read_text(), file=sys.stderr)


def _table(values: dict[str, str], more: Sequence[str]) -> str:
    lines = [f"{key} = {json.dumps(value)}" for key, value in values.items()]
    return "\n".join(["[[group]]", *lines, *more, "", ""])


def _parse(arguments: list[str] | None) -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("model", type=Path, metavar="MODEL_FOLDER")
    parser.add_argument("--chat-model", help="as of headrace serve (the default model)")
    parser.add_argument("--streams", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=200, help="of each chat's answer")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each turn")
    parser.add_argument("--floods", type=int, default=2, help="requests for embeddings at once")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--group-keys", nargs="*", default=[], metavar="KEY=VALUE")
    parser.add_argument("--flood-keys", nargs="*", default=[], metavar="KEY=VALUE")
    parser.add_argument("--log", action="store_true", help="show the pool's log at the end")
    return parser.parse_known_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
