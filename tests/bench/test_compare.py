"""Two servers side by side: the ratio, what makes it doubtful, and whose CPU time it is."""

import asyncio
import json
import math
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from bench import compare
from bench.load.comparison import Comparison, ServerRun, count_short
from bench.load.options import parse
from bench.load.processes import ServerProcesses, parse_listening
from bench.load.records import Record, summarize
from bench.load.schedule import Load
from tests.bench.small_server import Answer, stream

TABLE = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 123 1
   1: 0100007F:1F90 0100007F:CA02 01 00000000:00000000 00:00000000 00000000     0        0 124 1
   2: 00000000000000000000000001000000:1F90 00:0000 0A 0:0 00:0 0     0        0 125 1
   3: 0100007F:1F91 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 126 1
"""


def turn(
    tokens_per_s: float, idle_cpu: float | None = 0.0, error: str = "", short: int = 0
) -> ServerRun:
    good = Record(0.0, 1.0, [0.5], output_tokens=int(tokens_per_s))
    records = [good] + ([Record(0.0, 1.0, error=error)] if error else [])
    return ServerRun(summarize(records), short, idle_cpu)


class TestVerdict:
    def test_the_ratio_is_the_median_of_the_rounds(self) -> None:
        # Both are four times faster in the second round.
        first, second = [turn(150), turn(640), turn(130)], [turn(100), turn(400), turn(100)]
        verdict = Comparison(Load(concurrency=16), first, second, 1.5)
        assert verdict.ratios == [1.5, 1.6, 1.3]
        assert verdict.passed
        line = verdict.line()
        assert line.startswith("concurrency 16: A 150.0, B 100.0 output tokens/s, A/B 1.500")
        assert "(bar 1.5: ok), rounds 1.30 to 1.60" in line
        assert "\n" not in line

    def test_a_missed_bar_shows(self) -> None:
        verdict = Comparison(Load(concurrency=1), [turn(70)], [turn(100)], 0.75)
        assert not verdict.passed
        assert "(bar 0.75: MISSED)" in verdict.line()
        assert "bar" not in Comparison(Load(concurrency=1), [turn(7)], [turn(10)], None).line()

    def test_what_makes_it_doubtful(self) -> None:
        first = [turn(10, idle_cpu=0.3), turn(10, error="HTTP 500: no")]
        second = [turn(10, idle_cpu=None), turn(10, short=2)]
        verdict = Comparison(Load(concurrency=1), first, second, None)
        notes = verdict.line().split("\n")[1:]
        assert [note.strip() for note in notes] == [
            "B, idle while A ran, used 30% of a core",
            "A: 1 × HTTP 500: no",
            "B: 2 outputs are shorter than requested",
        ]
        assert verdict.failed_requests == 3

    def test_a_server_that_answers_nothing(self) -> None:
        verdict = Comparison(Load(concurrency=1), [turn(10)], [turn(0)], 1.0)
        assert math.isnan(verdict.ratio)
        assert not verdict.passed

    def test_short_outputs_are_counted(self) -> None:
        options = parse(["--output-tokens", "8"])
        records = [
            Record(0.0, 1.0, output_tokens=8),
            Record(0.0, 1.0, output_tokens=7),
            Record(0.0, 1.0, output_tokens=0, error="cut"),
        ]
        assert count_short(records, options) == 1


_LISTEN_AND_WORK = """
import socket, time
with socket.create_server(("127.0.0.1", 0)) as listener:
    print(listener.getsockname()[1], flush=True)
    end_s = time.process_time() + 0.5
    while time.process_time() < end_s:
        pass
    print("done", flush=True)
    time.sleep(60)
"""


class TestProcesses:
    def test_listening_sockets(self) -> None:
        assert parse_listening(TABLE, 0x1F90) == {"123", "125"}
        assert parse_listening(TABLE, 80) == set()

    def test_the_cpu_time_of_a_server(self) -> None:
        command = [sys.executable, "-c", _LISTEN_AND_WORK]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            processes = ServerProcesses(f"http://127.0.0.1:{int(process.stdout.readline())}")
            assert processes.found
            assert process.stdout.readline() == "done\n"
            assert processes.cpu_s() >= 0.4
            process.kill()
        with pytest.raises(RuntimeError, match=str(process.pid)):
            processes.cpu_s()

    def test_servers_elsewhere_are_not_ours(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
            assert not ServerProcesses(f"http://192.0.2.1:{port}").found
            assert ServerProcesses(f"http://localhost:{port}").found


class TestRun:
    async def test_two_servers_take_turns(
        self,
        serve: Callable[[Answer], Awaitable[str]],
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        asked: list[tuple[str, dict[str, Any]]] = []

        def note(name: str) -> Answer:
            async def answer(request: dict[str, Any], writer: asyncio.StreamWriter) -> None:
                asked.append((name, request))
                await stream(request, writer)

            return answer

        urls = [await serve(note("A")), await serve(note("B"))]
        options = [*urls, "--concurrency", "2", "--rounds", "2", "--output-tokens", "3"]
        options += ["--prompt-tokens", "10", "--bars", "0.01"]
        options += ["--json", str(tmp_path / "out.json")]
        # In a thread: its event loop is its own, and the servers' is this one.
        assert await asyncio.to_thread(compare.main, options) == 0

        names = "".join(name for name, _ in asked)
        run = 2 + 4  # two unmeasured ones, and four for two streams
        assert names == "A" * run + "B" * run + "B" * run + "A" * run
        prompts = {name: [r["prompt"] for n, r in asked if n == name] for name in "AB"}
        assert len({tuple(prompt) for prompt in prompts["A"]}) == 2 * run
        assert sorted(prompts["A"]) == sorted(prompts["B"])
        for _, request in asked:
            assert (len(request["prompt"]), request["max_tokens"]) == (10, 3)
            assert (request["ignore_eos"], request["temperature"]) == (True, 0)
        assert "(bar 0.01: ok)" in capsys.readouterr().out
        (verdict,) = json.loads((tmp_path / "out.json").read_text())
        assert len(verdict["ratios"]) == 2
        assert verdict["passed"]
        assert verdict["A"][0]["summary"]["output_tokens"] == 4 * 3

    async def test_an_answer_that_is_too_short_fails(
        self, serve: Callable[[Answer], Awaitable[str]], capsys: pytest.CaptureFixture[str]
    ) -> None:
        async def short(request: dict[str, Any], writer: asyncio.StreamWriter) -> None:
            await stream(request | {"max_tokens": 2}, writer)

        urls = [await serve(stream), await serve(short)]
        options = [*urls, "--concurrency", "1", "--rounds", "1", "--output-tokens", "3"]
        assert await asyncio.to_thread(compare.main, options) == 1
        assert "B: 4 outputs are shorter than requested" in capsys.readouterr().out

    def test_a_server_that_is_not_there(self, capsys: pytest.CaptureFixture[str]) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
        assert compare.main([f"http://127.0.0.1:{port}"] * 2) == 2
        assert str(port) in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("arguments", "complaint"),
        [
            (["--bars", "1,2"], "--bars"),
            (["--bars", "high"], "--bars"),
            (["--rounds", "0"], "--rounds"),
            (["--requests-per-stream", "0"], "--requests-per-stream"),
        ],
    )
    def test_wrong_options(
        self, arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with pytest.raises(SystemExit):
            compare.main(["http://a", "http://b", *arguments])
        assert complaint in capsys.readouterr().err
