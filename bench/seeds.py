"""How many texts with a seed come out the same alone and in a crowd, at temperature 1.

Each text runs first with nothing beside it, then all at once with drafts by prompt lookup, other
prompts coming in between, and its own prompt in the cache.

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


def requests(driver: Driver, texts: int, tokens: int) -> list[Generate]:
    """Prompts of 20 to 300 tokens, one seed each."""
    return [
        Generate(
            f"text {seed}",
            driver.prompt(20 + 280 * seed // texts),
            SamplingParams(seed=seed, max_tokens=tokens, temperature=1.0),
        )
        for seed in range(texts)
    ]


def run(
    engine: Engine, wanted: list[Generate], driver: Driver | None = None
) -> dict[str, list[int]]:
    """All texts at once; with a driver a further prompt comes every tenth step."""
    found: dict[str, list[int]] = {request.request_id: [] for request in wanted}
    for request in wanted:
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
    """Print how many of the texts were the same."""
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
    wanted = requests(driver, args.texts, args.tokens)
    alone: dict[str, list[int]] = {}
    for request in wanted:
        alone |= run(engine, [request])
    crowded = run(engine, wanted, driver)
    same = sum(crowded[name] == tokens for name, tokens in alone.items())
    print(f"{args.dtype} {args.quantization or ''}: {same} of {len(wanted)} texts the same")


if __name__ == "__main__":
    main()
