"""What a long prompt does to the texts that are being written beside it.

Eight streams decode; a prompt of 4,000 tokens arrives. Measured are the times between their tokens,
over the whole run, with the step budget and without it, in turn. Not to be run at real-time
priority: Linux then holds it up for 50 ms of every second, and that is the p99.
Usage: python -m bench.interference [--streams 8] [--prompt 4000]
"""

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

from headrace.launcher.models.prepare_model import PrepareOptions, prepare_model
from headrace.protocol.config import EngineConfig
from headrace.protocol.sampling import SamplingParams
from headrace.protocol.to_worker import Generate
from headrace.workers.build import build_engine
from headrace.workers.engine.engine import Engine
from headrace.workers.engine.step_budget import StepBudget


class NoBudget(StepBudget):
    """Every step is filled up."""

    def prompt_room(self, decode_rows: int) -> int:
        return self._max_tokens


def request(name: str, length: int, max_tokens: int, salt: int) -> Generate:
    prompt = tuple(5 + (salt * 7919 + place * 31) % 40000 for place in range(length))
    return Generate(name, prompt, SamplingParams(0, max_tokens, temperature=0.0))


def gaps_of(
    engine: Engine, streams: int, prompt: int, tokens: int
) -> tuple[list[float], int, float]:
    """Seconds between tokens of each stream, all together; how many of them were before the prompt
    arrived; seconds to its first token."""
    for number in range(streams):
        engine.add(request(f"s{number}", 32, tokens, number))
    last: dict[str, float] = {}
    gaps: list[float] = []
    arrived = first = 0.0
    calm = 0
    while engine.has_work:
        outputs = engine.step()
        now = time.perf_counter()
        for output in outputs:
            name = output.request_id
            if name in last:
                gaps.append(now - last[name])
            if name == "long":
                first = now
            else:
                last[name] = now
        if not arrived and len(gaps) >= 20 * streams:
            engine.add(request("long", prompt, 1, 99))
            arrived = now
            calm = len(gaps)
    return gaps, calm, first - arrived


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", help="as of headrace serve (the default model)")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--streams", type=int, default=8)
    parser.add_argument("--prompt", type=int, default=4000)
    parser.add_argument("--tokens", type=int, default=200, help="that each stream writes")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = prepare_model(args.model, PrepareOptions(text_path=Path(folder) / "text"))
        config = EngineConfig(
            dtype=args.dtype, threads=args.threads, enable_prefix_caching=False,
            kv_cache_bytes=2**29,
        )  # fmt: skip
        engine = build_engine(model.model_path, config, 1, print)
    scheduler = engine._scheduler
    with_budget = scheduler._budget
    without = NoBudget(with_budget._max_tokens)
    for number in range(args.rounds):
        for name, budget in (("without", without), ("with", with_budget)):
            scheduler._budget = budget
            gaps, calm, first_s = gaps_of(engine, args.streams, args.prompt, args.tokens)
            median = statistics.median(gaps)
            before = statistics.median(gaps[:calm])
            p99 = statistics.quantiles(gaps, n=100)[98]
            print(
                f"round {number}, {name} budget: median {median * 1000:.1f} ms, "
                f"p99 {p99 * 1000:.1f} ms, {p99 / median:.1f} x "
                f"({p99 / before:.1f} x the median before the prompt came); "
                f"longest {max(gaps) * 1000:.0f} ms; first token of the prompt {first_s:.1f} s"
            )


if __name__ == "__main__":
    main()
