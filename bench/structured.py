"""What a JSON schema costs: tokens per second of many streams with one, over those without.

    python -m bench.structured --streams 16

Both answer the same prompts with as many tokens each: the schema's texts cannot end earlier, the
others ignore where they would. Measured in turn, on one engine, without HTTP.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path

from tokenizers import Tokenizer

from headrace.launcher.models.prepare_model import PrepareOptions, prepare_model
from headrace.protocol.config import EngineConfig
from headrace.protocol.grammar import Grammar
from headrace.protocol.sampling import SamplingParams
from headrace.protocol.text import TextInfo
from headrace.protocol.to_worker import Generate
from headrace.workers.build import build_engine
from headrace.workers.engine.engine import Engine

PROMPT = (
    "<|im_start|>user\nList some people, real or made up, with name, age, city, hobbies and a"
    " sentence on each, as JSON.<|im_end|>\n<|im_start|>assistant\n"
)
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 3, "maxLength": 40},
        "age": {"type": "integer", "minimum": 1, "maximum": 120},
        "city": {"type": "string"},
        "hobbies": {"type": "array", "items": {"type": "string"}, "minItems": 2, "maxItems": 4},
        "kind": {"enum": ["painter", "writer", "scientist", "cook"]},
        "about": {"type": "string", "minLength": 20, "maxLength": 120},
    },
    "required": ["name", "age", "city", "hobbies", "kind", "about"],
    "additionalProperties": False,
}
SCHEMA = {"type": "array", "items": PERSON, "minItems": 1000}


def speed(
    engine: Engine,
    prompt: tuple[int, ...],
    grammar: Grammar | None,
    ends: tuple[int, ...],
    args: argparse.Namespace,
) -> float:
    """Tokens per second of all streams together, from when all prompts have been run."""
    for number in range(args.streams):
        sampling = SamplingParams(
            seed=number, max_tokens=args.tokens, temperature=args.temperature, eos_token_ids=ends
        )
        engine.add(Generate(f"{time.monotonic()}-{number}", prompt, sampling, grammar=grammar))
    generated = engine.stats().generated_tokens
    while engine.stats().waiting or engine.stats().generated_tokens == generated:
        engine.step()
    before = engine.stats().generated_tokens
    started = time.perf_counter()
    while engine.has_work:
        outputs = engine.step()
        assert all(output.finish_reason in (None, "length") for output in outputs), outputs
    return (engine.stats().generated_tokens - before) / (time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", help="as of headrace serve (the default model)")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--streams", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = prepare_model(args.model, PrepareOptions(text_path=Path(folder) / "text"))
        tokenizer = Tokenizer.from_file(str(model.text_path / "tokenizer.json"))
        config = EngineConfig(
            dtype=args.dtype, threads=args.threads, kv_cache_bytes=2**29, device=args.device
        )
        ends = TextInfo.load(model.text_path).eos_token_ids
        engine = build_engine(model.model_path, config, 1, print, text_path=model.text_path)
        prompt = tuple(tokenizer.encode(PROMPT).ids)
        grammar = Grammar("json_schema", json.dumps({"grammars": [{"json_schema": SCHEMA}]}))
        found: dict[bool, list[float]] = {False: [], True: []}
        for number in range(2 * (args.rounds + 1)):  # the first of each warms up
            held = number % 2 == 1
            rate = speed(engine, prompt, *((grammar, ends) if held else (None, ())), args)
            if number > 1:
                found[held].append(rate)
    plain, held_to = (statistics.median(found[held]) for held in (False, True))
    print(
        f"{args.streams} streams of {args.tokens} tokens: {plain:.1f} tokens/s without a schema,"
        f" {held_to:.1f} with, {held_to / plain:.2f} x"
    )


if __name__ == "__main__":
    main()
