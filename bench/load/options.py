"""Parse the load generator's command line."""

import argparse
import json
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bench.load.prompts import Mix
from bench.load.schedule import Load

DEFAULT_REQUESTS_PER_USER = 4
MIN_REQUESTS = 8


@dataclass(frozen=True, slots=True)
class Options:
    """The options of a run. urls: one server, or two to compare. loads: run one after the other."""

    urls: tuple[str, ...]
    model: str | None
    endpoint: str
    loads: tuple[Load, ...]
    mix: Mix
    warmup: int
    rounds: int
    json_file: Path | None
    api_key: str | None
    timeout_s: float
    ignore_eos: bool
    extra: dict[str, Any]

    def with_requests(self, per_stream: int, least: int) -> "Options":
        """Return options with `per_stream` requests a stream, and at least `least` in each load."""
        loads = tuple(
            replace(load, requests=max(least, per_stream * (load.concurrency or 1)))
            for load in self.loads
        )
        return replace(self, loads=loads)


def parse(arguments: list[str] | None = None) -> Options:
    """Return the options; an invalid one exits with a line that names it."""
    parser = _parser()
    given = parser.parse_args(arguments)
    if given.requests is None and given.duration is None and given.rate is not None:
        parser.error("--rate needs --requests or --duration")
    try:
        extra = json.loads(given.extra_body)
    except ValueError as error:
        parser.error(f"--extra-body: is not JSON: {error}")
    if not isinstance(extra, dict):
        parser.error("--extra-body: is not a JSON object")
    mix = Mix(
        kind=given.mix,
        prompt_tokens=given.prompt_tokens,
        output_tokens=given.output_tokens,
        shared_prefix_tokens=given.shared_prefix_tokens,
        vocab_size=given.vocab_size,
        context=given.context,
        seed=given.seed,
    )
    return Options(
        urls=(given.url, given.compare) if given.compare else (given.url,),
        model=given.model,
        endpoint=given.endpoint,
        loads=_loads(given, mix),
        mix=mix,
        warmup=given.warmup,
        rounds=given.rounds,
        json_file=given.json,
        api_key=given.api_key or os.environ.get("OPENAI_API_KEY"),
        timeout_s=given.timeout,
        ignore_eos=not given.stop_at_eos,
        extra=extra,
    )


def _loads(given: argparse.Namespace, mix: Mix) -> tuple[Load, ...]:
    def load(concurrency: int | None) -> Load:
        requests = given.requests
        if requests is None and given.duration is None:
            requests = max(MIN_REQUESTS, DEFAULT_REQUESTS_PER_USER * (concurrency or 1))
        rate = given.rate if concurrency is None else None
        return Load(concurrency, rate, requests, given.duration, mix.mean_turns, mix.seed)

    if given.rate is not None:
        return (load(None),)
    return tuple(load(concurrency) for concurrency in given.concurrency)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="bench/serve.py", formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    add("--url", default="http://127.0.0.1:8000", help="the server")
    add("--compare", metavar="URL", help="a second server: the same load alternates between them")
    add("--rounds", type=_positive, default=1, help="how often each load is run on each server")
    add("--model", help="the model of requests (default: the first of /v1/models)")
    add("--endpoint", choices=("chat", "completions"), default="completions", help="which API")
    _add_load(parser)
    _add_mix(parser)
    add("--warmup", type=_count, default=2, help="unmeasured requests before each load")
    add("--json", type=Path, metavar="FILE", help="write the results there, too")
    add("--api-key", help="bearer token (default: $OPENAI_API_KEY)")
    add("--timeout", type=_above_zero, default=600.0, help="seconds until a request has failed")
    add("--stop-at-eos", action="store_true", help="let outputs end before their full length")
    add("--extra-body", default="{}", metavar="JSON", help="more fields of every request")
    return parser


def _add_load(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("load")
    how = group.add_mutually_exclusive_group()
    how.add_argument(
        "--concurrency",
        type=_positives,
        default=(1, 16),
        help="requests in flight, such as 1,16,64",
    )
    how.add_argument("--rate", type=_above_zero, help="requests per second, as a Poisson process")
    group.add_argument(
        "--requests", type=_positive, help="how many (default: 4 for each in flight, at least 8)"
    )
    group.add_argument("--duration", type=_above_zero, help="seconds in which requests start")


def _add_mix(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("prompts and outputs")
    add = group.add_argument
    add("--mix", choices=("fixed", "random", "sharegpt"), default="fixed", help="lengths")
    add("--prompt-tokens", type=_positive, default=128, help="length, or middle of random ones")
    add("--output-tokens", type=_positive, default=64, help="length, or middle of random ones")
    add("--shared-prefix-tokens", type=_count, default=0, help="tokens that all prompts begin with")
    add("--vocab-size", type=_vocab, default=30_000, help="token ids of prompts are below")
    add("--context", type=_context, default=8192, help="tokens of prompt and output at most")
    add("--seed", type=int, default=0, help="of prompts, lengths and arrivals")


def _integer(text: str, least: int) -> int:
    try:
        value = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None
    if value < least:
        raise argparse.ArgumentTypeError(f"{value} is less than {least}")
    return value


def _positive(text: str) -> int:
    return _integer(text, 1)


def _count(text: str) -> int:
    return _integer(text, 0)


def _vocab(text: str) -> int:
    return _integer(text, 16)


def _context(text: str) -> int:
    return _integer(text, 2)


def _positives(text: str) -> tuple[int, ...]:
    return tuple(_positive(part) for part in text.split(","))


def _above_zero(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return value
