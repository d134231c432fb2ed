"""Serve a folder as a worker does, and gather the answers of several rounds."""

import random
from pathlib import Path
from typing import Any

from headrace.protocol.config import CpuKernels, EngineConfig
from headrace.protocol.to_worker import Generate
from headrace.workers.build import build_runner
from headrace.workers.engine.assemble import assemble_engine
from headrace.workers.engine.engine import Engine
from tests.models.prompts import LONGEST, NEW, Prompts
from tests.workers.driving import Answer, request, run

CACHE_BYTES = 1 << 26
MAX_LEN = LONGEST + 4 * NEW
_SPARE_TOKENS = 48  # of a crowded cache, beside those of the longest request
_PREEMPTED_STEPS = (9, 17)  # before which all that is running is preempted


class Served:
    """A folder's model as the product loads it. Raises ModelUnsupported if it refuses it."""

    def __init__(self, folder: Path, kernels: CpuKernels, seed: int) -> None:
        self._rng = random.Random(f"steps {seed}")
        options: dict[str, Any] = {
            "block_size": self._rng.choice((4, 8, 16)) if kernels == "torch" else 16,
            "dtype": "float32", "device": "cpu", "cpu_kernels": kernels, "threads": 1,
            "max_num_seqs": 6, "kv_cache_bytes": CACHE_BYTES, "max_model_len": MAX_LEN,
        }  # fmt: skip
        config = EngineConfig(**options)
        self.runner: Any = build_runner(folder, config, 1, lambda line: None)
        self._whole_cache: int = self.runner.num_blocks

    @property
    def is_compiled(self) -> bool:
        return type(self.runner).__name__ == "NativeRunner"

    def engine(self, tokens: int | None = None) -> Engine:
        """Return a new engine, with a cache of so many tokens; None: the whole."""
        self.runner.num_blocks = self._whole_cache
        if tokens is not None:
            blocks = -(-tokens // self.runner.block_size)
            self.runner.num_blocks = min(self._whole_cache, blocks)
        return assemble_engine(
            self.runner,
            max_num_seqs=6,
            max_num_batched_tokens=self._rng.choice((17, 32, 48, 64)),
        )

    def batches(self, prompts: Prompts) -> tuple[dict[str, list[int]], int]:
        """Answer all prompts in batches, then those that find prefixes.

        Returns the answers by the requests' names, and how many tokens were found in the cache.
        """
        engine = self.engine()
        answers = _tokens(run(engine, self._arrivals("first", prompts)))
        answers |= _tokens(run(engine, self._arrivals("again", prompts)))
        return answers, engine.stats().cached_tokens

    def crowded(self, prompts: Prompts) -> tuple[dict[str, list[int]], int]:
        """Answer all with few blocks and preemptions. Returns the answers and their number."""
        engine = self.engine(MAX_LEN + _SPARE_TOKENS)

        def preempt(step: int) -> None:
            if step in _PREEMPTED_STEPS:
                engine.reset_prefix_cache(recompute_running=True)

        arrivals = self._arrivals("first", prompts)
        return _tokens(run(engine, arrivals, preempt)), engine.stats().preemptions

    def replayed(self, prompts: Prompts) -> dict[str, list[int]]:
        """Answer in an engine that dies within the answers, and the rest of each in another."""
        engine, partial = self.engine(), {}
        for _, each in self._arrivals("first", prompts):
            engine.add(each)
            partial[each.request_id] = each, list[int]()
        while sum(len(tokens) for _, tokens in partial.values()) < prompts.new * len(partial) // 2:
            for output in engine.step():
                partial[output.request_id][1].extend(output.token_ids)
        rest = [
            (0, request(name, each.prompt_token_ids, replayed=tokens, max_tokens=prompts.new))
            for name, (each, tokens) in partial.items()
            if len(tokens) < prompts.new
        ]
        later = _tokens(run(self.engine(), rest))
        return {name: tokens + later.get(name, []) for name, (_, tokens) in partial.items()}

    def _arrivals(self, name: str, prompts: Prompts) -> list[tuple[int, Generate]]:
        chosen = prompts.first if name == "first" else prompts.again
        return [
            (self._rng.randrange(10), request(f"{name} {number}", prompt, max_tokens=prompts.new))
            for number, prompt in enumerate(chosen)
        ]


def _tokens(answers: dict[str, Answer]) -> dict[str, list[int]]:
    return {name: answer.tokens for name, answer in answers.items()}
