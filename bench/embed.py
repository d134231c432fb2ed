"""Measure embeddings a second, side by side with what other people embed texts with.

    python -m bench.embed --install FOLDER
    python -m bench.embed MODEL_FOLDER --peers FOLDER [--llama FOLDER --gguf fp32=FILE]

The first command makes the peers' environments; each peer runs in one of them, as a process of its
own on the same cores, with as many threads as Headrace's worker. All sides run all the time and one
is loaded at a time, in turn: machines are shared, so only ratios of one round mean something.
Headrace, infinity and llama.cpp are asked over HTTP, which counts; the others embed lists in their
own process. Each call has as many texts as --at-once says: short ones (16 tokens), mixed ones (16
to 256) or long ones (as many tokens as the model takes). The batch sizes of the libraries are tried
before a load.

A side that does not start is named with its error. Unknown flags go to `headrace serve`. Exits with
status 1 if vectors of Headrace are not those of sentence-transformers in float32.
"""

import argparse
import contextlib
import functools
import json
import os
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench.embed_peers.catalogue import ENVIRONMENTS, PEERS, PRECISIONS, REFERENCE
from bench.embed_peers.install import PeerError, install
from bench.embed_peers.results import EmbedLoad, cosine_line, memory_lines
from bench.embed_peers.sides import Calls, EmbedSide, EmbedTurn
from bench.embed_peers.starting import start_all
from bench.embed_peers.texts import KINDS, Kind, Texts, max_tokens

CHECKED = 100  # texts whose vectors are compared


def measure(
    sides: Sequence[EmbedSide], texts: Texts, given: argparse.Namespace, kind: Kind, at_once: int
) -> EmbedLoad:
    """Run one load: try batch sizes, then the rounds, each the other way around."""

    def calls() -> list[list[str]]:
        return [texts.make(kind, at_once) for _ in range(max(1, given.texts // at_once))]

    sample, tried = calls(), sorted({min(size, at_once) for size in given.batches})
    batches, turns = dict[str, int](), dict[str, list[EmbedTurn]]()
    for side in sides:
        with left_out(side):
            side.run(sample[:1], tried[-1])  # the first call of a load is slow
            if side.batches:
                batches[side.name] = best_batch(side, sample, tried)
            turns[side.name] = []
    sides = [side for side in sides if side.name in turns]
    for number in range(given.rounds):
        asked = calls()
        for side in sides if number % 2 == 0 else reversed(sides):
            turns[side.name].append(side.run(asked, batches.get(side.name, at_once)))
    return EmbedLoad(kind, at_once, turns, batches)


@contextlib.contextmanager
def left_out(side: EmbedSide) -> Iterator[None]:
    """Name a peer that cannot do what is asked here, and go on. An error of ours passes."""
    try:
        yield
    except PeerError as error:
        if side.is_ours:
            raise
        print(f"{side.name}: left out: {error}", file=sys.stderr, flush=True)


def best_batch(side: EmbedSide, sample: Calls, tried: Sequence[int]) -> int:
    """Return the batch size with which a side is fastest."""
    if len(tried) == 1:
        return tried[0]
    rates = {size: side.run(sample, size).rate for size in tried}
    return max(rates, key=lambda size: rates[size])


def check(sides: Sequence[EmbedSide], texts: Texts) -> bool:
    """Compare vectors with the reference's; return whether ours are right."""
    sample = texts.make("mixed", CHECKED)
    found = {}
    for side in sides:
        with left_out(side):
            found[side.name] = side.vectors(sample, 8)
    if REFERENCE not in found:
        print(f"cosines: none, for want of {REFERENCE}")
        return True
    print(f"cosines to {REFERENCE}, {CHECKED} texts:")
    lines = [
        cosine_line(side, found[side.name], found[REFERENCE])
        for side in sides
        if side.name in found
    ]
    print("\n".join(line for line, _ in lines), flush=True)
    return all(good for _, good in lines)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    given, flags = parse_arguments(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # the sides end, too
    if given.install:
        return int(install(given.install, given.environments) > 0)
    longest = given.max_tokens or max_tokens(given.model)
    texts = Texts(given.model, longest)
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hr-")))
        sides = start_all(stack, given, flags, longest, folder)
        good = check(sides, texts)
        loads = []
        for kind in given.kinds:
            for at_once in given.at_once:
                loads.append(measure(sides, texts, given, kind, at_once))
                print("\n".join(loads[-1].lines(sides)), flush=True)
        memory = {side.name: side.memory() for side in sides}
        print("\n".join(memory_lines(sides, memory)), flush=True)
    if given.json:
        results = {"loads": [load.as_json() for load in loads], "memory_mb": memory}
        given.json.write_text(json.dumps(results, indent=1) + "\n")
    return int(not good)


def parse_arguments(arguments: list[str] | None) -> tuple[argparse.Namespace, list[str]]:
    """Parse the arguments; return them, and the flags of `headrace serve`."""
    parser = argparse.ArgumentParser(
        prog="bench.embed", formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add, listed = parser.add_argument, functools.partial(_listed, parser)
    add("model", type=Path, nargs="?", metavar="MODEL_FOLDER")
    add("--install", type=Path, metavar="FOLDER", help="only make the peers' environments there")
    add("--environments", default=",".join(ENVIRONMENTS), help="with --install: which")
    add("--peers", type=Path, metavar="FOLDER", help="the folder of --install")
    add("--only", help="peers by name; without it all that are installed or given")
    add("--precisions", default=",".join(PRECISIONS), help="of Headrace and of the peers")
    add("--llama", type=Path, metavar="FOLDER", help="the folder of llama-server")
    add("--gguf", action="append", default=[], metavar="PRECISION=FILE", help="may be repeated")
    add("--threads", type=_positive, default=os.cpu_count() or 1, help="and cores of each side")
    add("--at-once", default="1,32,256", help="texts of a call, one load for each number")
    add("--kinds", default=",".join(KINDS), help="of texts")
    add("--texts", type=_positive, default=256, help="of a turn, or one call if that has more")
    add("--batches", default="8,32,128", help="batch sizes to try")
    add("--rounds", type=_positive, default=3)
    add("--max-tokens", type=_positive, help="of a text, where the model's own are too few")
    add("--per-request", type=int, default=0, help="texts of a request; 0 for a call's all in one")
    add("--json", type=Path, metavar="FILE", help="write the results there, too")
    given, flags = parser.parse_known_args(arguments)
    if bool(given.model) == bool(given.install):
        parser.error("give MODEL_FOLDER, or --install")
    given.environments = listed("--environments", given.environments, tuple(ENVIRONMENTS))
    given.precisions = listed("--precisions", given.precisions, PRECISIONS)
    given.kinds = listed("--kinds", given.kinds, KINDS)
    names = [peer.name for peer in PEERS]
    given.only = listed("--only", given.only, names) if given.only else names
    given.ggufs = dict(_gguf(parser, text) for text in given.gguf)
    for name in ("at_once", "batches"):
        setattr(given, name, _numbers(parser, name, getattr(given, name)))
    return given, flags


def _listed(
    parser: argparse.ArgumentParser, flag: str, text: str, known: Sequence[str]
) -> list[str]:
    parts = text.split(",")
    for part in parts:
        if part not in known:
            parser.error(f"{flag}: {part!r} is none of {', '.join(known)}")
    return parts


def _gguf(parser: argparse.ArgumentParser, text: str) -> tuple[str, Path]:
    precision, _, file = text.partition("=")
    if precision not in PRECISIONS or not file:
        parser.error(f"--gguf: {text!r} is not PRECISION=FILE")
    return precision, Path(file)


def _numbers(parser: argparse.ArgumentParser, name: str, text: str) -> list[int]:
    try:
        return [_positive(part) for part in text.split(",")]
    except argparse.ArgumentTypeError as error:
        parser.error(f"--{name.replace('_', '-')}: {error}")


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive integer")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
