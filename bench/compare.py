"""Compare two servers of the same model: the ratio of their output tokens per second.

    python -m bench.compare URL_A URL_B --bars 0.75,1.6,1.8

Starts no server. Both run all the time, and in each round the same load (prompts of 128 random
tokens, outputs of 64, EOS ignored) goes first to the one and then to the other: machines are
shared and their speed changes by the minute, so only ratios of one round mean something. The result
is the median of the rounds' ratios. For servers on this machine it reports if the idle one took CPU
from the other. No prompt is sent twice to a server.

Exits with status 1 if a request failed or an output was too short.
"""

import argparse
import contextlib
import json
import sys
from pathlib import Path

from bench.load import client
from bench.load.cli import SESSIONS_PER_RUN, connect, run_loop
from bench.load.comparison import Comparison, Side, alternate
from bench.load.http import HTTPFailure, Server
from bench.load.options import Options, parse
from bench.load.processes import ServerProcesses

LOADS = "1,16,64"
MIN_REQUESTS = 4


def main(arguments: list[str] | None = None) -> int:
    """Compare the servers; return the exit status, 2 if one cannot be used at all."""
    try:
        given, options = parse_arguments(arguments)
        comparisons = run_loop(_compare(options, given.bars))
    except (OSError, HTTPFailure, client.StreamError, RuntimeError, ValueError) as error:
        print(f"bench/compare.py: {error}", file=sys.stderr)
        return 2
    if given.json is not None:
        given.json.write_text(
            json.dumps([comparison.as_json() for comparison in comparisons], indent=1) + "\n"
        )
    return int(any(comparison.failed_requests for comparison in comparisons))


async def _compare(options: Options, bars: list[float | None]) -> list[Comparison]:
    """Run the loads; print each comparison as soon as it is made."""
    async with contextlib.AsyncExitStack() as stack:
        sides = []
        for name, url in zip("AB", options.urls, strict=True):
            server = Server(url, {})
            stack.push_async_callback(server.close)
            target = await connect(server, options)
            sides.append(Side(target, ServerProcesses(url)))
            print(f"{name}: {target.model} at {url}", flush=True)
        comparisons: list[Comparison] = []
        for number, (load, bar) in enumerate(zip(options.loads, bars, strict=True)):
            first_session = (number * options.rounds + 1) * SESSIONS_PER_RUN
            pair = sides[0], sides[1]
            comparisons.append(await alternate(pair, load, options, first_session, bar))
            print(comparisons[-1].line(), flush=True)
    return comparisons


def parse_arguments(arguments: list[str] | None = None) -> tuple[argparse.Namespace, Options]:
    """Parse the arguments; return them, with `bars` for each load, and the load's options."""
    parser = argparse.ArgumentParser(
        prog="bench/compare.py", formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    add("urls", nargs=2, metavar="URL", help="the servers A and B")
    add("--concurrency", default=LOADS, help="streams at once, one load for each number")
    add("--bars", type=_bars, help="for each load, the least A/B")
    add("--rounds", default="5", help="how often each load is run on each server")
    add("--requests-per-stream", type=_positive, default=2, help="in each run, at least 4 in all")
    add("--prompt-tokens", default="128", help="of every prompt")
    add("--output-tokens", default="64", help="of every output")
    add("--json", type=Path, metavar="FILE", help="write the results there, too")
    given = parser.parse_args(arguments)
    loads = given.concurrency.split(",")
    given.bars = given.bars or [None] * len(loads)
    if len(given.bars) != len(loads):
        parser.error("--bars: must have one for each load")
    passed = ["--url", given.urls[0], "--compare", given.urls[1], "--rounds", given.rounds]
    passed += ["--prompt-tokens", given.prompt_tokens, "--output-tokens", given.output_tokens]
    options = parse([*passed, "--concurrency", given.concurrency])
    return given, options.with_requests(given.requests_per_stream, MIN_REQUESTS)


def _bars(text: str) -> list[float | None]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of numbers") from None


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive integer")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
