"""Count the seeded outputs that are the same alone and in a large batch, at temperature 1.

Each request runs first alone, then all run at once, with drafts by prompt lookup, other prompts
arriving meanwhile, and its own prompt in the prefix cache.

    HF_HUB_OFFLINE=1 python -m bench.seeds [--dtype bfloat16] [--quantization int8] [--texts 32]
"""

import argparse
import tempfile
from pathlib import Path

from bench.roof.driver import Driver
from headrace.launcher.models.prepare_model import PrepareOptions, prepare_model
from headrace.protocol.config import EngineConfig
from headrace.protocol.sampling import SamplingParams
from headrace.protocol.to_worker import Generate
from headrace.workers.build import build_engine
from headrace.workers.engine.engine import Engine


def requests(driver: Driver, count: int, tokens: int) -> list[Generate]:
    """Return requests of 20 to 300 prompt tokens, with a seed each."""
    return [
        Generate(
            f"request {seed}",
            driver.prompt(20 + 280 * seed // count),
            SamplingParams(seed=seed, max_tokens=tokens, temperature=1.0),
        )
        for seed in range(count)
    ]


def run(
    engine: Engine, seeded: list[Generate], driver: Driver | None = None
) -> dict[str, list[int]]:
    """Run all requests at once and return their tokens; a driver adds a prompt every tenth step."""
    found: dict[str, list[int]] = {request.request_id: [] for request in seeded}
    for request in seeded:
        engine.add(request)
    steps = 0
    while engine.has_work:
        for output in engine.step():
            if output.request_id in found:
                found[output.request_id] += output.token_ids
        steps += 1
        if driver and steps % 10 == 0 and steps < 200:
            brief = SamplingParams(seed=0, max_tokens=3, temperature=0.0)
            engine.add(Generate(f"other {steps}", driver.prompt(700), brief))
    return found


def main() -> None:
    """Print how many of the outputs were the same."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--quantization", default=None)
    parser.add_argument("--texts", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=250)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = prepare_model(None, PrepareOptions(text_path=Path(folder) / "text")).model_path
    config = EngineConfig(
        dtype=args.dtype, quantization=args.quantization, threads=2, kv_cache_bytes=2 << 30
    )
    engine = build_engine(path, config, 1, lambda *_: None)
    driver = Driver(engine, 49_152)
    seeded = requests(driver, args.texts, args.tokens)
    alone: dict[str, list[int]] = {}
    for request in seeded:
        alone |= run(engine, [request])
    crowded = run(engine, seeded, driver)
    same = sum(crowded[name] == tokens for name, tokens in alone.items())
    print(f"{args.dtype} {args.quantization or ''}: {same} of {len(seeded)} outputs the same")


if __name__ == "__main__":
    main()
