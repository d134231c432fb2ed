"""Measure transcription, side by side with what other people transcribe with.

    python -m bench.speech --install FOLDER
    python -m bench.speech --make-set FOLDER
    python -m bench.speech MODEL_FOLDER --set FOLDER --peers FOLDER --ctranslate2 FOLDER
    python -m bench.speech MODEL_FOLDER --set FOLDER --peers FOLDER --wer

The first command makes the peers' environments, the second the recordings (with espeak-ng, flite
and those of tests/speech). The third measures seconds of audio a second: clips, so many at once as
--at-once says, and a recording of half an hour. Headrace is asked over HTTP, which counts; peers
run as processes of their own on the same cores, with as many threads, and read the files
themselves. All are greedy, in the language given, without a second try at a higher temperature. All
run all the time and one is loaded at a time, in turn: machines are shared, so only ratios of one
round mean something. Batch sizes are tried before a load.

--wer compares words and times with those of transformers' own way for long recordings instead, over
the whole set.

A side that does not start is named with its error. Unknown flags go to `headrace serve`. With --wer
the exit status is 1 if more words of ours are wrong than of the reference's, by over 1 % of all, or
if something is heard in silence or noise.
"""

import argparse
import contextlib
import functools
import json
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil

from bench.embed_peers.install import PeerError, install, python_of
from bench.load.layouts import ROOT
from bench.speech import ggml
from bench.speech.catalogue import ENVIRONMENTS, PEERS, PRECISIONS, REFERENCE, SpeechPeer
from bench.speech.comparison import compare
from bench.speech.errors import pooled, word_errors
from bench.speech.material import Recording, make_set, missing_programs, read_set
from bench.speech.results import SpeechLoad, memory_lines
from bench.speech.sides import SpeechSide, SpeechTurn, Task, headrace, library

LONG = "half-hour"
_NO_SPEECH = ("silence", "noise")
SAMPLE_S = 0.2


class PeakMemory:
    """The largest memory that sides have had while they ran."""

    def __init__(self) -> None:
        self.values = dict[str, list[float]]()

    def look(self, side: SpeechSide) -> None:
        """Note a side's memory now, if it is the largest yet."""
        self.values[side.name] = max(self.values.get(side.name, []), side.memory(), key=sum)

    @contextlib.contextmanager
    def watch(self, side: SpeechSide) -> Iterator[None]:
        """Look at a side's memory while a turn runs."""
        done = threading.Event()

        def keep_looking() -> None:
            with contextlib.suppress(psutil.NoSuchProcess):  # its turn tells why
                while not done.wait(SAMPLE_S):
                    self.look(side)

        thread = threading.Thread(target=keep_looking)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()
            with contextlib.suppress(psutil.NoSuchProcess):
                self.look(side)


def measure(
    sides: Sequence[SpeechSide], clips: Sequence[Recording], given: argparse.Namespace,
    title: str, at_once: int, memory: PeakMemory,
) -> SpeechLoad:  # fmt: skip
    """Run one load: try batch sizes, then the rounds, each the other way around."""
    batches, turns = dict[str, int](), dict[str, list[SpeechTurn]]()
    for side in sides:
        with left_out(side):
            side.run(Task(clips[:1]))  # the first call of a load is slow
            if side.batches:
                rates = {size: side.run(Task(clips, at_once, size)).rate for size in given.batches}
                batches[side.name] = max(rates, key=lambda size: rates[size])
            turns[side.name] = []
    for number in range(given.rounds):
        for side in sides if number % 2 == 0 else reversed(sides):
            if side.name not in turns:
                continue
            own = turns.pop(side.name)  # for good if it fails
            with left_out(side), memory.watch(side):
                own.append(side.run(Task(clips, at_once, batches.get(side.name, 1))))
                turns[side.name] = own
    said = [clip.text for clip in clips]
    errors = {name: pooled([*map(word_errors, said, own[0].texts)]) for name, own in turns.items()}
    return SpeechLoad(title, at_once, turns, batches, errors)


@contextlib.contextmanager
def left_out(side: SpeechSide) -> Iterator[None]:
    """Name a peer that cannot do what is asked here, and go on. An error of ours passes."""
    try:
        yield
    except PeerError as error:
        if side.is_ours:
            raise
        print(f"{side.name}: left out: {error}", file=sys.stderr, flush=True)


def model_file(peer: SpeechPeer, given: argparse.Namespace) -> Path:
    """Return what a peer reads the model from; whisper.cpp's file is written at need."""
    if peer.files == "huggingface":
        return Path(given.model)
    if peer.files == "ctranslate2":
        if given.ctranslate2 is None:
            raise PeerError("no model in its format: --ctranslate2 FOLDER")
        return Path(given.ctranslate2)
    target = Path(given.peers, "models", f"{given.model.name}-{peer.files}.bin")
    if not target.exists():
        target.parent.mkdir(exist_ok=True)
        ggml.write(given.model, target, peer.files)
    return target


def start_all(
    stack: contextlib.ExitStack, given: argparse.Namespace, flags: Sequence[str], folder: Path
) -> list[SpeechSide]:
    """Start the sides of the command line, ours first; name those that do not start."""
    sides = list[SpeechSide]()
    for precision in () if given.without_ours else given.precisions:
        server = headrace(precision, given.model, given.threads, folder, flags)
        sides.append(stack.enter_context(server))
    peers = [REFERENCE] if given.wer else [peer for peer in PEERS if peer.name in given.only]
    for peer in peers:
        if given.peers is None or (peer.precision not in given.precisions and not given.wer):
            continue
        try:
            python = python_of(given.peers, peer.environment, "bench.speech")
            model = model_file(peer, given)
            sides.append(stack.enter_context(library(peer, python, model, given.threads, folder)))
        except (PeerError, OSError) as error:
            print(f"{peer.name}: left out: {error}", file=sys.stderr, flush=True)
        else:
            print(f"{peer.name}: started", flush=True)
    return sides


def clips_of(recordings: dict[str, Recording], count: int) -> list[Recording]:
    """Return English clips of up to a minute; some twice if there are too few."""
    found = [
        recording
        for name, recording in recordings.items()
        if recording.language == "en" and name not in (LONG, *_NO_SPEECH)
    ]
    return [found[number % len(found)] for number in range(count)]


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    given, flags = parse_arguments(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # the sides end, too
    if given.install:
        return int(install(given.install, ENVIRONMENTS, ENVIRONMENTS) > 0)
    if given.make_set:
        if missing := missing_programs():
            print(f"not installed: {' '.join(missing)}", file=sys.stderr)
            return 1
        make_set(given.make_set, ROOT / "tests" / "speech")
        return 0
    recordings = read_set(given.set)
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hr-")))
        sides = start_all(stack, given, flags, folder)
        if given.wer:
            return int(not compare(sides, chosen(recordings, given.names), _NO_SPEECH))
        loads, memory = list[SpeechLoad](), PeakMemory()
        for at_once in given.at_once:
            clips = clips_of(recordings, max(given.clips, at_once))
            title = f"{len(clips)} clips, {at_once} at once"
            loads.append(measure(sides, clips, given, title, at_once, memory))
            print("\n".join(loads[-1].lines(sides)), flush=True)
        if given.long:
            long = [recordings[LONG]]
            loads.append(measure(sides, long, given, "half an hour", 1, memory))
            print("\n".join(loads[-1].lines(sides)), flush=True)
        sides = [side for side in sides if side.name in memory.values]
        print("\n".join(memory_lines(sides, memory.values)), flush=True)
    if given.json:
        results = {"loads": [load.as_json() for load in loads], "memory_mb": memory.values}
        given.json.write_text(json.dumps(results, indent=1) + "\n")
    return 0


def chosen(recordings: dict[str, Recording], names: str) -> dict[str, Recording]:
    """Return the recordings of some names; all without names."""
    return {name: recordings[name] for name in names.split(",")} if names else recordings


def parse_arguments(arguments: list[str] | None) -> tuple[argparse.Namespace, list[str]]:
    """Parse the arguments; return them, and the flags of `headrace serve`."""
    parser = argparse.ArgumentParser(
        prog="bench.speech", formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add, listed = parser.add_argument, functools.partial(_listed, parser)
    add("model", type=Path, nargs="?", metavar="MODEL_FOLDER")
    add("--install", type=Path, metavar="FOLDER", help="only make the peers' environments there")
    add("--make-set", type=Path, metavar="FOLDER", help="only make the recordings there")
    add("--set", type=Path, metavar="FOLDER", help="the folder of --make-set")
    add("--peers", type=Path, metavar="FOLDER", help="the folder of --install")
    add("--ctranslate2", type=Path, metavar="FOLDER", help="the model as faster-whisper reads it")
    add("--only", help="peers by name; without it all that are installed")
    add("--without-ours", action="store_true", help="measure the peers alone")
    add("--precisions", default=",".join(PRECISIONS), help="of Headrace and of the peers")
    add("--threads", type=_positive, default=os.cpu_count() or 1, help="and cores of each side")
    add("--at-once", default="1,8,16", help="recordings, one load for each number")
    add("--clips", type=_positive, default=16, help="of a turn")
    add("--no-long", dest="long", action="store_false", help="without the half hour")
    add("--batches", default="4,8,16", help="batch sizes to try")
    add("--rounds", type=_positive, default=3)
    add("--wer", action="store_true", help="compare words and times, not speed")
    add("--names", default="", help="with --wer: of recordings; without it all")
    add("--json", type=Path, metavar="FILE", help="write the results there, too")
    given, flags = parser.parse_known_args(arguments)
    if sum(map(bool, (given.model, given.install, given.make_set))) != 1:
        parser.error("give MODEL_FOLDER, --install or --make-set")
    if given.model and not given.set:
        parser.error("give --set FOLDER")
    given.precisions = listed("--precisions", given.precisions, PRECISIONS)
    names = [peer.name for peer in PEERS]
    given.only = listed("--only", given.only, names) if given.only else names
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
