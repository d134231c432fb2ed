"""Compare types of the K/V cache: time of long contexts, and what their rounding changes.

    GOMP_SPINCOUNT=10000 HF_HUB_OFFLINE=1 python -m bench.kernels.long_context [--rounds 5]

An engine for each type runs in this process, of the default model unless another is named. Times
are of steps that decode --batch streams at a context of 2,000 and of 160 tokens; all types take
turns in each round, and figures are medians of the rounds' ratios, the first of which has a bar of
1.8 for caches of 8 bits. With --threads 1 times are the process's own CPU time, for machines that
have other work. What rounding changes is told over windows of Python's manual
(`pydoc_data.topics`): the perplexity, the share of positions at which the likeliest next token is
the same as with bfloat16, and the share of equal tokens in greedy continuations of the windows.
"""

import argparse
import math
import pydoc_data.topics
import statistics
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from tokenizers import Tokenizer

from bench.roof.driver import Driver
from bench.roof.rounds import repeated, settle
from headrace.launcher.command.options import parse_size
from headrace.launcher.models.prepare_model import PrepareOptions, prepare_model
from headrace.protocol.config import EngineConfig, KvCacheDtype
from headrace.protocol.sampling import SamplingParams
from headrace.protocol.to_worker import Generate
from headrace.workers.build import build_engine
from headrace.workers.engine.engine import Engine

TYPES: tuple[KvCacheDtype, ...] = ("bfloat16", "int8", "fp8")
LONG, SHORT = 2000, 160
BAR = 1.8
WINDOW = 1024
CONTINUED = 64  # tokens

Times = dict[tuple[KvCacheDtype, int], list[float]]


def main() -> None:
    """Print the figures of each type."""
    options = _parse()
    with tempfile.TemporaryDirectory() as folder:
        prepare = PrepareOptions(text_path=Path(folder) / "text")
        path = prepare_model(options.model, prepare).model_path
    tokenizer = Tokenizer.from_file(str(path / "tokenizer.json"))
    engines = {
        name: build_engine(
            path,
            EngineConfig(
                kv_cache_dtype=name,
                kv_cache_bytes=options.kv_cache_bytes,
                threads=options.threads,
                cpu_kernels=options.cpu_kernels,
            ),
            1,
            print,
        )
        for name in TYPES
    }
    if options.rounds:
        times = _time(engines, tokenizer.get_vocab_size(), options)
        _report_times(times)
    if options.windows:
        _report_rounding(engines, _windows(tokenizer, options.windows))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="bench.kernels.long_context", formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--model", help="a folder, a GGUF file or a name; the default model")
    parser.add_argument("--cpu-kernels", default="auto")
    sizes = {"batch": 16, "rounds": 5, "repeats": 6, "windows": 8, "threads": 2}
    for name, default in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=default, help=" ")
    parser.add_argument("--kv-cache-bytes", type=parse_size, default="1200MiB", help="of each type")
    return parser.parse_args()


def _time(
    engines: dict[KvCacheDtype, Engine], vocab_size: int, options: argparse.Namespace
) -> Times:
    """Time steps at both contexts, each type and context in turn."""
    turns = {}
    for name, engine in engines.items():
        driver = Driver(engine, vocab_size)
        for context in (SHORT, LONG):
            turns[name, context] = driver, [driver.prompt(context) for _ in range(options.batch)]
    times: Times = {key: [] for key in turns}
    for number in range(options.rounds + 1):
        for key, (driver, prompts) in turns.items():
            driver.start(prompts)  # from the second round on, the cache holds them
            settle()
            seconds = repeated(partial(_step, driver, options.threads))(options.repeats)
            driver.stop()
            if number:
                times[key].append(statistics.median(seconds))
    return times


def _step(driver: Driver, threads: int) -> float:
    """Return the seconds of a step; with one thread those of its own CPU time."""
    started_s = time.process_time()
    seconds = driver.step()
    return time.process_time() - started_s if threads == 1 else seconds


def _report_times(times: Times) -> None:
    for name in TYPES:
        long, short = times[name, LONG], times[name, SHORT]
        ratio = _ratio(long, short)
        verdict = "ok" if ratio <= BAR else "missed"
        print(
            f"{name:<9} context {LONG} over {SHORT}: {ratio:.2f} (bar {BAR}: {verdict}), best over "
            f"best {min(long) / min(short):.2f}; over bfloat16 at {LONG}: "
            f"{_ratio(long, times['bfloat16', LONG]):.2f}, at {SHORT}: "
            f"{_ratio(short, times['bfloat16', SHORT]):.2f}; "
            f"ms {statistics.median(long) * 1e3:.1f}, {statistics.median(short) * 1e3:.1f}",
            flush=True,
        )


def _ratio(high: Sequence[float], low: Sequence[float]) -> float:
    return statistics.median(a / b for a, b in zip(high, low, strict=True))


def _windows(tokenizer: Tokenizer, count: int) -> list[tuple[int, ...]]:
    text = "\n".join(pydoc_data.topics.topics.values())
    ids = tokenizer.encode(text[: count * WINDOW * 6]).ids
    return [tuple(ids[number * WINDOW : (number + 1) * WINDOW]) for number in range(count)]


def _report_rounding(
    engines: dict[KvCacheDtype, Engine], windows: Sequence[tuple[int, ...]]
) -> None:
    found = {
        name: [_read(engine, window) for window in windows] for name, engine in engines.items()
    }
    exact = found["bfloat16"]
    for name, readings in found.items():
        surprise = statistics.fmean(reading[0] for reading in readings)
        likeliest = _share([r[1] for r in readings], [r[1] for r in exact])
        continued = _share([r[2] for r in readings], [r[2] for r in exact])
        print(
            f"{name:<9} perplexity {math.exp(surprise):.4f}; as with bfloat16: likeliest token "
            f"{likeliest:.2%} of {len(windows) * (WINDOW - 1)}, continuations {continued:.2%} of "
            f"{len(windows) * CONTINUED}"
        )


def _read(engine: Engine, window: tuple[int, ...]) -> tuple[float, list[int], list[int]]:
    """Return the mean surprise of a window, the likeliest token at each position, and the tokens
    that follow the window greedily."""
    sampling = SamplingParams(seed=0, max_tokens=CONTINUED, temperature=0.0, prompt_logprobs=1)
    engine.add(Generate("window", window, sampling))
    surprise: list[float] = []
    likeliest: list[int] = []
    continued: list[int] = []
    while engine.has_work:
        for output in engine.step():
            admission = output.admission
            for known in (admission and admission.prompt_logprobs) or ():
                surprise.append(-known.logprob)
                likeliest.append(known.top_token_ids[0])
            continued += output.token_ids
    return statistics.fmean(surprise), likeliest, continued


def _share(found: Sequence[Sequence[int]], expected: Sequence[Sequence[int]]) -> float:
    """Return the share of equal tokens; outputs that ended early count as different from there."""
    pairs = [
        a == b
        for each, other in zip(found, expected, strict=True)
        for a, b in zip(each, other, strict=False)
    ]
    return sum(pairs) / sum(max(map(len, two)) for two in zip(found, expected, strict=True))


if __name__ == "__main__":
    main()
