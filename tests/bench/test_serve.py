"""The load generator: its arithmetic, its parsers, and a run against a small server."""

import asyncio
import itertools
import json
import math
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.load.cli import _main
from bench.load.client import StreamError
from bench.load.http import BodyDecoder, EventParser, HTTPFailure, Server, parse_head
from bench.load.options import parse
from bench.load.prompts import Mix, Planned, session, turns
from bench.load.records import Record, percentile, spread, summarize
from bench.load.schedule import Load, arrivals, run
from tests.bench.small_server import Answer, chunk, plain, stream

CUTS = st.lists(st.integers(0, 400), max_size=12)


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    """`data` cut at these places."""
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(edges)]


class TestArithmetic:
    @given(st.lists(st.floats(0, 1e6), min_size=1, max_size=50), st.floats(0, 100))
    def test_percentiles_are_those_of_numpy(self, values: list[float], percent: float) -> None:
        expected = float(np.percentile(values, percent))
        assert percentile(sorted(values), percent) == pytest.approx(expected, rel=1e-9, abs=1e-9)

    def test_a_spread_is_in_milliseconds(self) -> None:
        result = spread([0.1, 0.2, 0.3])
        assert result.mean == pytest.approx(200)
        assert result.p50 == pytest.approx(200)
        assert result.p99 == pytest.approx(298)
        assert math.isnan(spread([]).p50)

    def test_times_of_a_request(self) -> None:
        record = Record(10.0, 13.0, [11.0, 11.5, 13.0], prompt_tokens=5, output_tokens=5)
        assert record.ttft_s == 1.0
        assert record.tpot_s == 0.5
        assert record.gaps_s == [0.5, 1.5]
        assert Record(0.0, 1.0, [1.0], output_tokens=1).tpot_s is None

    def test_a_summary_counts_only_what_succeeded(self) -> None:
        good = Record(0.0, 2.0, [1.0, 2.0], prompt_tokens=10, output_tokens=20)
        late = Record(2.0, 4.0, [3.0, 4.0], prompt_tokens=10, output_tokens=20)
        bad = Record(1.0, 3.0, [2.0], prompt_tokens=99, output_tokens=99, error="HTTP 500: no")
        summary = summarize([good, bad, late], client_cpu_s=1.0)
        assert (summary.ok, summary.failed) == (2, 1)
        assert summary.errors == {"HTTP 500: no": 1}
        assert summary.duration_s == 4.0
        assert summary.output_tokens_per_s == 10.0
        assert summary.total_tokens_per_s == 15.0
        assert summary.requests_per_s == 0.5
        assert summary.client_cpu == 0.25
        assert summary.e2e_ms.mean == 2000

    def test_a_summary_of_nothing_is_valid_json(self) -> None:
        text = json.dumps(summarize([]).as_json(), allow_nan=False)
        assert json.loads(text)["ttft_ms"]["p99"] is None


class TestParsers:
    @given(CUTS)
    def test_events_do_not_depend_on_where_they_are_cut(self, cuts: list[int]) -> None:
        stream = (
            b': a comment\n\ndata: {"a": 1}\n\ndata:two\r\n\r\nevent: x\ndata: lines\ndata: of one'
            b"\n\n\n\ndata: \xe4\xbd\xa0\n\ndata: [DONE]\n\ndata: unfinished"
        )
        events = EventParser()
        payloads = [payload for part in pieces(stream, cuts) for payload in events.feed(part)]
        assert payloads == [b'{"a": 1}', b"two", b"lines\nof one", b"\xe4\xbd\xa0", b"[DONE]"]

    @given(CUTS)
    def test_chunks_do_not_depend_on_where_they_are_cut(self, cuts: list[int]) -> None:
        stream = b"5\r\nhello\r\nA;x=y\r\n\r\n world\r\n\r\n1\r\n!\r\n0\r\nTrailer: t\r\n\r\n"
        body = BodyDecoder(chunked=True, length=None)
        parts = pieces(stream, cuts)
        assert b"".join(body.feed(part) for part in parts) == b"hello\r\n world\r\n!"
        assert body.done

    @pytest.mark.parametrize("cut", range(1, 12))
    def test_an_unfinished_body_is_a_failure(self, cut: int) -> None:
        body = BodyDecoder(chunked=True, length=None)
        body.feed(b"2\r\nab\r\n0\r\n\r\n"[:cut])
        assert not body.done
        with pytest.raises(HTTPFailure):
            body.end()

    def test_a_body_of_given_length(self) -> None:
        body = BodyDecoder(chunked=False, length=5)
        assert body.feed(b"abc") + body.feed(b"defg") == b"abcde"
        assert body.done
        assert BodyDecoder(chunked=False, length=0).done

    def test_a_body_without_length_ends_with_the_connection(self) -> None:
        body = BodyDecoder(chunked=False, length=None)
        assert body.feed(b"abc") == b"abc"
        assert not body.done
        body.end()
        assert body.done

    @pytest.mark.parametrize("head", ["", "HTTP/2 200", "HTTP/1.1", "HTTP/1.1 abc", "GET / 1"])
    def test_a_malformed_head(self, head: str) -> None:
        with pytest.raises(HTTPFailure):
            parse_head(head.encode())

    def test_a_malformed_chunk(self) -> None:
        with pytest.raises(HTTPFailure):
            BodyDecoder(chunked=True, length=None).feed(b"zz\r\n")


class TestMixes:
    @pytest.mark.parametrize("kind", ["fixed", "random", "sharegpt"])
    @pytest.mark.parametrize("endpoint", ["chat", "completions"])
    def test_a_session_depends_on_seed_and_index_only(self, kind: str, endpoint: str) -> None:
        mix = Mix(kind)
        assert session(mix, endpoint, 7) == session(mix, endpoint, 7)
        assert session(mix, endpoint, 7) != session(mix, endpoint, 8)
        assert session(mix, endpoint, 7) != session(Mix(kind, seed=1), endpoint, 7)

    def test_fixed_lengths(self) -> None:
        mix = Mix("fixed", prompt_tokens=30, output_tokens=9)
        (planned,) = session(mix, "completions", 0)
        assert (len(planned.prompt["prompt"]), planned.output_tokens) == (30, 9)
        (planned,) = session(mix, "chat", 0)
        ((message),) = planned.prompt["messages"]
        assert (message["role"], len(message["content"].split())) == ("user", 30)

    def test_random_lengths(self) -> None:
        mix = Mix("random", prompt_tokens=100, output_tokens=10)
        lengths = [turn for index in range(500) for turn in turns(mix, index)]
        assert all(50 <= t.prompt_tokens <= 150 and 5 <= t.output_tokens <= 15 for t in lengths)
        assert abs(np.mean([t.prompt_tokens for t in lengths]) - 100) < 6

    def test_sharegpt_lengths(self) -> None:
        sessions = [turns(Mix("sharegpt"), index) for index in range(4000)]
        assert abs(np.mean([len(turns_) for turns_ in sessions]) - 2.0) < 0.1
        lengths = [turn for turns_ in sessions for turn in turns_]
        # the caps take a little off the means of the distributions
        assert 140 < np.mean([turn.prompt_tokens for turn in lengths]) < 170
        assert 270 < np.mean([turn.output_tokens for turn in lengths]) < 340
        assert max(turn.output_tokens for turn in lengths) == 1024

    @pytest.mark.parametrize("endpoint", ["chat", "completions"])
    def test_a_turn_begins_with_all_before_it(self, endpoint: str) -> None:
        field = "messages" if endpoint == "chat" else "prompt"
        index = next(i for i in range(99) if len(turns(Mix("sharegpt"), i)) >= 3)
        planned = session(Mix("sharegpt"), endpoint, index)
        assert len(planned) >= 3
        for before, after in itertools.pairwise(planned):
            earlier = before.prompt[field]
            assert after.prompt[field][: len(earlier)] == earlier
            assert after.prompt_tokens > before.prompt_tokens + before.output_tokens

    def test_prefixes_are_shared_only_when_asked_for(self) -> None:
        apart = [session(Mix(), "completions", i)[0].prompt["prompt"] for i in range(50)]
        assert len({tuple(prompt[:16]) for prompt in apart}) == 50
        mix = Mix(shared_prefix_tokens=32)
        shared = [session(mix, "completions", i)[0].prompt["prompt"] for i in range(50)]
        assert len({tuple(prompt[:32]) for prompt in shared}) == 1
        assert len({tuple(prompt[32:48]) for prompt in shared}) == 50
        assert {len(prompt) for prompt in shared} == {32 + 128}

    @pytest.mark.parametrize("kind", ["fixed", "random", "sharegpt"])
    def test_the_context_and_the_vocabulary_are_kept_to(self, kind: str) -> None:
        mix = Mix(kind, prompt_tokens=500, output_tokens=400, context=300, vocab_size=64)
        for index in range(200):
            for planned in session(mix, "completions", index):
                assert planned.prompt_tokens == len(planned.prompt["prompt"])
                assert planned.prompt_tokens + planned.output_tokens <= 300
                assert all(0 <= token_id < 64 for token_id in planned.prompt["prompt"])


class TestSchedule:
    def test_arrivals_are_a_poisson_process(self) -> None:
        process = arrivals(Load(rate=10.0, seed=3))
        times = [next(process) for _ in range(5000)]
        gaps = np.diff(times)
        assert abs(np.mean(gaps) - 0.1) < 0.005
        assert abs(np.std(gaps) - 0.1) < 0.01  # of an exponential distribution: the mean
        again = arrivals(Load(rate=10.0, seed=3))
        assert [next(again) for _ in range(5000)] == times
        halved = arrivals(Load(rate=10.0, seed=3, mean_turns=2.0))
        assert next(halved) == pytest.approx(2 * times[0])

    @pytest.mark.parametrize(
        ("load", "most"),
        [(Load(concurrency=3, requests=10), 3), (Load(rate=1e6, requests=10), 10)],
    )
    async def test_as_many_requests_and_in_flight_as_asked_for(self, load: Load, most: int) -> None:
        in_flight, seen, sent = 0, 0, list[Planned]()

        async def send(planned: Planned) -> Record:
            nonlocal in_flight, seen
            in_flight += 1
            seen = max(seen, in_flight)
            sent.append(planned)
            for _ in range(50):
                await asyncio.sleep(0)
            in_flight -= 1
            return Record(0.0)

        records = await run(load, lambda index: [Planned({"index": index}, 1, 1)], send)
        assert len(records) == len(sent) == 10
        assert seen <= most
        assert seen > 1
        assert sorted(planned.prompt["index"] for planned in sent) == list(range(10))

    async def test_turns_of_a_session_follow_each_other(self) -> None:
        order = []

        async def send(planned: Planned) -> Record:
            order.append(planned.prompt_tokens)
            await asyncio.sleep(0)
            return Record(0.0)

        def make_session(index: int) -> list[Planned]:
            return [Planned({}, 10 * index + turn, 1) for turn in range(3)]

        await run(Load(concurrency=2, requests=11), make_session, send)
        assert len(order) == 11
        for index in range(3):
            own = [number for number in order if number // 10 == index]
            assert own == sorted(own) == [10 * index, 10 * index + 1, 10 * index + 2]

    async def test_a_duration_ends_the_load(self) -> None:
        async def send(planned: Planned) -> Record:
            await asyncio.sleep(0.001)
            return Record(0.0)

        one = [Planned({}, 1, 1)]
        assert await run(Load(concurrency=2, duration_s=0.05), lambda _: one, send)
        assert await run(Load(rate=1e4, duration_s=0.05), lambda _: one, send)


class TestRun:
    @pytest.mark.parametrize("endpoint", ["chat", "completions"])
    async def test_a_run_against_two_servers(
        self,
        endpoint: str,
        serve: Callable[[Answer], Awaitable[str]],
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        asked: list[dict[str, Any]] = []

        async def answer(request: dict[str, Any], writer: asyncio.StreamWriter) -> None:
            asked.append(request)
            await stream(request, writer)

        arguments = ["--url", await serve(answer), "--compare", await serve(stream)]
        arguments += ["--endpoint", endpoint, "--concurrency", "1,3", "--requests", "6"]
        arguments += ["--output-tokens", "5", "--warmup", "1", "--rounds", "2"]
        arguments += ["--json", str(tmp_path / "out.json")]
        assert await _main(parse(arguments)) == 0
        assert len(asked) == 2 * 2 * (1 + 6)
        first = asked[0]
        assert (first["model"], first["max_tokens"], first["stream"]) == ("tiny", 5, True)
        assert first["ignore_eos"]
        assert first["stream_options"] == {"include_usage": True}
        prompts = [json.dumps(request.get("messages", request.get("prompt"))) for request in asked]
        assert len(set(prompts)) == len(prompts), "a prompt was sent twice: it would be cached"

        printed = capsys.readouterr().out
        assert "concurrency 3" in printed
        assert "ratio" in printed
        results = json.loads((tmp_path / "out.json").read_text())["results"]
        assert [result["load"]["concurrency"] for result in results] == [1, 1, 3, 3]
        for result in results:
            assert (result["ok"], result["failed"]) == (12, 0)
            assert (result["prompt_tokens"], result["output_tokens"]) == (12 * 11, 12 * 5)
            assert result["content_events"] == 12 * 4
            assert 0 < result["ttft_ms"]["mean"] <= result["e2e_ms"]["mean"]

    @pytest.mark.parametrize(
        ("what", "error"),
        [
            ("status", "HTTP 429: slow down"),
            ("event", "error in the stream: it broke"),
            ("short", "the stream ended without [DONE]"),
            ("cut", "HTTPFailure: connection closed within a response"),
            ("closed", "HTTPFailure: connection closed before a response"),
            ("garbage", "malformed event in the stream"),
        ],
    )
    async def test_failures_are_counted_by_kind(
        self,
        what: str,
        error: str,
        serve: Callable[[Answer], Awaitable[str]],
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        async def answer(request: dict[str, Any], writer: asyncio.StreamWriter) -> None:
            if what == "status":
                plain(writer, 429, {"error": {"message": "slow down", "code": 429}})
            elif what == "closed":
                writer.close()
            else:
                writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
                chunk(writer, {"choices": [{"text": "a"}]})
                if what == "event":
                    chunk(writer, {"error": {"message": "it broke"}})
                elif what == "garbage":
                    chunk(writer, b"[1]")
                elif what == "cut":
                    writer.close()
                    return
                writer.write(b"0\r\n\r\n")

        arguments = ["--url", await serve(answer), "--concurrency", "2", "--requests", "4"]
        arguments += ["--warmup", "0", "--json", str(tmp_path / "out.json")]
        assert await _main(parse(arguments)) == 1
        (result,) = json.loads((tmp_path / "out.json").read_text())["results"]
        assert (result["ok"], result["failed"]) == (0, 4)
        assert result["errors"] == {error: 4}
        assert f"4 × {error}" in capsys.readouterr().out

    async def test_connections_are_kept(self, serve: Callable[[Answer], Awaitable[str]]) -> None:
        writers = set()

        async def answer(request: dict[str, Any], writer: asyncio.StreamWriter) -> None:
            writers.add(writer)
            await stream(request, writer)

        arguments = ["--url", await serve(answer), "--concurrency", "2", "--requests", "20"]
        assert await _main(parse(arguments)) == 0
        assert len(writers) == 2

    async def test_connections_that_a_server_does_not_keep(
        self, serve: Callable[[Answer], Awaitable[str]], tmp_path: Path
    ) -> None:
        asked = 0

        async def answer(request: dict[str, Any], writer: asyncio.StreamWriter) -> None:
            nonlocal asked
            asked += 1
            await stream(request, writer)
            await writer.drain()
            writer.close()

        arguments = ["--url", await serve(answer), "--concurrency", "2", "--requests", "20"]
        arguments += ["--warmup", "0", "--json", str(tmp_path / "out.json")]
        assert await _main(parse(arguments)) == 0
        (result,) = json.loads((tmp_path / "out.json").read_text())["results"]
        assert (result["ok"], asked) == (20, 20)

    async def test_a_server_that_is_not_there(self) -> None:
        server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        server.close()
        await server.wait_closed()
        with pytest.raises(StreamError, match=str(port)):
            await _main(parse(["--url", f"http://127.0.0.1:{port}", "--requests", "1"]))


class TestOptions:
    @pytest.mark.parametrize(
        ("arguments", "complaint"),
        [
            (["--concurrency", "0"], "--concurrency"),
            (["--concurrency", "1,x"], "--concurrency"),
            (["--rate", "5"], "--rate needs"),
            (["--rate", "5", "--concurrency", "1", "--requests", "1"], "not allowed with"),
            (["--rate", "nan"], "--rate"),
            (["--prompt-tokens", "-1"], "--prompt-tokens"),
            (["--extra-body", "[1]"], "--extra-body"),
            (["--mix", "other"], "--mix"),
        ],
    )
    def test_wrong_ones(
        self, arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with pytest.raises(SystemExit) as exit_:
            parse(arguments)
        assert exit_.value.code == 2
        assert complaint in capsys.readouterr().err

    def test_a_url_must_be_one(self) -> None:
        with pytest.raises(ValueError, match="ftp://x"):
            Server("ftp://x")

    @settings(max_examples=20)
    @given(st.integers(1, 100))
    def test_requests_grow_with_the_concurrency(self, concurrency: int) -> None:
        (load,) = parse(["--concurrency", str(concurrency)]).loads
        assert load.requests == max(8, 4 * concurrency)
