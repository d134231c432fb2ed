"""Measure the CPU time of encoding and decoding messages.

The other side is msgpack, which packs and unpacks the same values without any checks, or with
`--than` the codec of the build in another source folder, which handles the same messages.
All are measured in turn, in one process; each line has the medians, and how many times as long the
other takes (the ratio of the medians).

    python -m bench.codec [--than FOLDER] [--rounds 9]
"""

import argparse
import importlib
import random
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec

from bench.load.layouts import ROOT

MODULES = ("to_worker", "to_frontend", "to_coordinator", "state", "sampling")
ROOTS = ("headrace", "protocol")  # the import root, now and in builds of November 2026
ROUND_S = 0.02
Work = Callable[[], Any]


class Build:
    """A build's messages and codecs."""

    def __init__(self, source: Path) -> None:
        """Import them, even if another build's have been imported before."""
        for name in [each for each in sys.modules if each.partition(".")[0] in ROOTS]:
            del sys.modules[name]
        package = "headrace.protocol" if (source / "headrace").is_dir() else "protocol"
        sys.path.insert(0, str(source))
        self._modules = [importlib.import_module(f"{package}.{name}") for name in MODULES]
        sys.path.remove(str(source))

    def cases(self) -> dict[str, tuple[Any, Any]]:
        """Return messages of the most frequent kinds, each with its codec."""
        to_worker, to_frontend, to_coordinator, state, sampling = self._modules
        load = state.WorkerLoad(12, 3, 0.43, 123_456, 0.02, 900)
        totals = to_coordinator.WorkerTotals(1_000_000, 200_000, 900_000, 3_000)
        beat = to_coordinator.WorkerHeartbeat("chat-0.0", load, totals)
        params = sampling.SamplingParams(seed=2**60 + 5, max_tokens=200, eos_token_ids=(128_001,))
        return {
            **{
                f"a request, {count:,} tokens": (
                    to_worker.REQUESTS,
                    to_worker.Generate("frontend-0.0-12", token_ids(count), params),
                )
                for count in (100, 4_000, 100_000)
            },
            **{
                f"a step, {count} requests": (to_frontend.OUTPUTS, step(to_frontend, count))
                for count in (1, 16, 64)
            },
            "a step, 16 requests, logprobs": (to_frontend.OUTPUTS, step(to_frontend, 16, 5)),
            "a worker's heartbeat": (to_coordinator.CONTROL, beat),
            "the state, 8 workers": (state.STATE, pool_state(state, load)),
        }


def token_ids(count: int) -> tuple[int, ...]:
    return tuple(random.Random(count).choices(range(128_000), k=count))


def step(to_frontend: ModuleType, requests: int, likeliest: int = 0) -> Any:
    logprobs = (
        (to_frontend.Logprobs(5, -0.5, 1, token_ids(likeliest), (-1.5,) * likeliest),)
        if likeliest
        else None
    )
    outputs = (
        to_frontend.Output(f"frontend-0.0-{number}", token_ids(1), 17, logprobs=logprobs)
        for number in range(requests)
    )
    return to_frontend.StepOutputs("chat-0.0", 77, tuple(outputs))


def pool_state(state: ModuleType, load: Any) -> Any:
    workers = (
        state.WorkerState(f"chat-{n}.0", "chat", n, state.READY, f"ipc:///run/chat-{n}.0", load)
        for n in range(8)
    )
    frontends = (
        state.FrontendState(f"frontend-{n}.0", n, state.FrontendLoad(9, {"chat": 2}))
        for n in range(4)
    )
    groups = (state.GroupState("chat", 8, ""),)
    return state.PoolState("epoch", 3, groups, tuple(workers), tuple(frontends))


def plain(codec: Any, message: Any) -> tuple[Work, Work]:
    """Pack and unpack the same bytes without types and checks."""
    data = codec.encode(message)
    values = msgspec.msgpack.decode(data)
    return lambda: msgspec.msgpack.encode(values), lambda: msgspec.msgpack.decode(data)


def typed(codec: Any, message: Any) -> tuple[Work, Work]:
    data = codec.encode(message)
    return lambda: codec.encode(message), lambda: codec.decode(data)


def in_turn(works: tuple[Work, ...], rounds: int) -> list[float]:
    """Measure the functions in turn; return the median microseconds of each."""
    counts = [max(1, int(ROUND_S / max(seconds(work, 10), 1e-8))) for work in works]
    measured = [
        [seconds(work, count) for work, count in zip(works, counts, strict=True)]
        for _ in range(rounds)
    ]
    return [statistics.median(each) * 1e6 for each in zip(*measured, strict=True)]


def seconds(work: Work, count: int) -> float:
    """Return the CPU time of one of `count` calls; other processes do not count."""
    started = time.process_time()
    for _ in range(count):
        work()
    return (time.process_time() - started) / count


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.codec")
    parser.add_argument("--than", type=Path, help="another build's source folder")
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args()
    this = Build(ROOT).cases()
    than = Build(args.than).cases() if args.than else None
    for name, (codec, message) in this.items():
        encode, decode = typed(codec, message)
        other_encode, other_decode = typed(*than[name]) if than else plain(codec, message)
        data = encode()
        is_same = "the same bytes" if other_encode() == data else "OTHER BYTES"
        packing = in_turn((encode, other_encode), args.rounds)
        reading = in_turn((decode, other_decode), args.rounds)
        print(
            f"{name}: {len(data):,} bytes, {is_same};"
            f" encode {packing[0]:.2f} us, the other {packing[1] / packing[0]:.2f} times;"
            f" decode {reading[0]:.2f} us, the other {reading[1] / reading[0]:.2f} times",
            flush=True,
        )


if __name__ == "__main__":
    main()
