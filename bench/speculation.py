"""Tokens a second with drafts from the text (prompt lookup) and without, in turn, in one run.

Two kinds of chats: one asks for a piece of code again with a small change, the other for free text.
Usage: python -m bench.speculation [--streams 1,4] [--tokens 200]
"""

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

from tokenizers import Tokenizer

from headrace.launcher.models.prepare_model import PrepareOptions, prepare_model
from headrace.protocol.config import EngineConfig, SpeculativeConfig
from headrace.protocol.sampling import SamplingParams
from headrace.protocol.to_worker import Generate
from headrace.workers.build import build_engine
from headrace.workers.engine.engine import Engine

CODE = """def total_price(items, discount):
    total = 0.0
    for item in items:
        price = item["price"] * item["quantity"]
        if item["taxed"]:
            price = price * 1.19
        total = total + price
    if discount is not None:
        total = total - total * discount
    return round(total, 2)


def average_price(items):
    total = 0.0
    for item in items:
        total = total + item["price"]
    return round(total / len(items), 2)
"""
# Each a message of the user, and how the answer begins.
CHATS = {
    "repeats": (
        f"Repeat this code, but with the name `discount` changed to `rebate`.\n```\n{CODE}```",
        "Here is the code with the name changed:\n```\ndef total_price(items, rebate):\n",
    ),
    "free": (
        "Tell me a long story about a sailor who finds a lighthouse on an unknown island.",
        "",
    ),
}


def chat(message: str, answer: str) -> str:
    """In the default model's format."""
    return f"<|im_start|>user\n{message}<|im_end|>\n<|im_start|>assistant\n{answer}"


def speed(engine: Engine, prompt: tuple[int, ...], streams: int, tokens: int) -> float:
    """Tokens a second from the first on, over all streams."""
    for number in range(streams):
        sampling = SamplingParams(number, tokens, temperature=0.0 if streams == 1 else 0.3)
        engine.add(Generate(f"r{number}", prompt, sampling))
    while engine.stats().waiting or engine.stats().generated_tokens == 0:
        engine.step()
    before = engine.stats().generated_tokens
    started = time.perf_counter()
    while engine.has_work:
        engine.step()
    return (engine.stats().generated_tokens - before) / (time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", help="as of headrace serve (the default model)")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--streams", default="1,4")
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--draft", type=int, default=4)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    args = parser.parse_args()
    speculative = SpeculativeConfig(
        method="ngram",
        num_speculative_tokens=args.draft,
        prompt_lookup_max=4,
        prompt_lookup_min=2,
    )
    with tempfile.TemporaryDirectory() as folder:
        model = prepare_model(args.model, PrepareOptions(text_path=Path(folder) / "text"))
        tokenizer = Tokenizer.from_file(str(model.text_path / "tokenizer.json"))
        config = EngineConfig(
            dtype=args.dtype, threads=args.threads, kv_cache_bytes=2**29,
            speculative_config=speculative,
        )  # fmt: skip
        engine = build_engine(model.model_path, config, 1, print)
    for streams in map(int, args.streams.split(",")):
        for name, texts in CHATS.items():
            compare(engine, tuple(tokenizer.encode(chat(*texts)).ids), name, streams, args)


def compare(
    engine: Engine, prompt: tuple[int, ...], name: str, streams: int, args: argparse.Namespace
) -> None:
    """Measure in turn and print the ratio."""
    drafter = engine._drafter
    before = engine.stats()
    found: dict[bool, list[float]] = {False: [], True: []}
    for _ in range(args.rounds):
        for speculate in (False, True):
            engine._scheduler._drafter = drafter if speculate else None
            found[speculate].append(speed(engine, prompt, streams, args.tokens))
    engine._scheduler._drafter = drafter
    plain, drafted = (statistics.median(found[speculate]) for speculate in (False, True))
    stats = engine.stats()
    tokens = stats.draft_tokens - before.draft_tokens
    accepted = stats.accepted_tokens - before.accepted_tokens
    print(
        f"{streams} streams, {name}: {plain:.1f} tokens/s without, {drafted:.1f} with, "
        f"{drafted / plain:.2f} x; {tokens} drafted, {accepted} right",
        flush=True,
    )


if __name__ == "__main__":
    main()
