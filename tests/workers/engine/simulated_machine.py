"""A scheduler on a machine of known speed: durations are computed, nothing is timed."""

from collections.abc import Callable

from headrace.protocol.sampling import SamplingParams
from headrace.protocol.to_worker import Generate
from headrace.workers.engine.block_pool import BlockPool
from headrace.workers.engine.scheduler import Scheduler
from headrace.workers.sequence.sequence import Sequence


class Machine:
    """Runs a scheduler's steps in no time, each taking fixed_s plus some time for each row."""

    def __init__(
        self,
        fixed_s: float,
        decode_s: float,
        prompt_s: float,
        max_tokens: int = 512,
        noise: Callable[[], float] = lambda: 1.0,
        capacity: int = 64,
        blocks: int = 4000,
    ) -> None:
        self.scheduler = Scheduler(
            BlockPool(blocks, 16),
            max_num_seqs=capacity,
            max_num_batched_tokens=max_tokens,
            enable_prefix_caching=False,
        )
        self.fixed_s, self.decode_s, self.prompt_s = fixed_s, decode_s, prompt_s
        self.noise = noise
        self.sequences: list[Sequence] = []
        self.added = 0

    def add(
        self, name: str, length: int, max_tokens: int, tenant: str = "", user: str = ""
    ) -> Sequence:
        params = SamplingParams(seed=0, max_tokens=max_tokens)
        request = Generate(name, (1,) * length, params, tenant=tenant, user=user)
        self.added += 1
        sequence = Sequence.of(request, self.added, 0.0)
        self.sequences.append(sequence)
        self.scheduler.add(sequence)
        return sequence

    def seconds(self, decodes: int, prompts: int) -> float:
        return self.fixed_s + decodes * self.decode_s + prompts * self.prompt_s

    def step(self) -> tuple[list[Sequence], int, float]:
        """The sequences that decoded, the prompt tokens in the same step, and the true duration."""
        chunks = self.scheduler.schedule()
        decodes = [chunk.sequence for chunk in chunks if chunk.is_decode]
        prompts = sum(chunk.count for chunk in chunks) - len(decodes)
        seconds = self.seconds(len(decodes), prompts)
        self.scheduler.observe(chunks, seconds * self.noise())
        for chunk in chunks:
            sequence = chunk.sequence
            if chunk.samples:
                sequence.token_ids.append(1)
            self.scheduler.commit(chunk)
            if sequence.num_outputs == sequence.request.sampling.max_tokens:
                self.scheduler.remove(sequence)
                self.sequences.remove(sequence)
        return decodes, prompts, seconds
