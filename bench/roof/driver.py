"""Run requests of random tokens on an engine and time its steps."""

import random
import time
from dataclasses import dataclass, field

from headrace.protocol.sampling import SamplingParams
from headrace.protocol.to_frontend import Output
from headrace.protocol.to_worker import Generate
from headrace.workers.engine.engine import Engine

FIRST_TOKEN_ID = 1000  # below are special tokens and single bytes


@dataclass
class Gaps:
    """Times between one token of a stream and its next, in seconds.

    plain: with nothing else in the engine.
    disturbed: from the arrival of the long prompt to its first token.
    """

    plain: list[float] = field(default_factory=list)
    disturbed: list[float] = field(default_factory=list)


class Driver:
    """Drives one engine; every method but `start` leaves it without requests."""

    def __init__(self, engine: Engine, vocab_size: int) -> None:
        self.engine = engine
        self._vocab_size = vocab_size
        self._rng = random.Random(0)
        self._count = 0
        self._streams: list[str] = []

    def prompt(self, tokens: int) -> tuple[int, ...]:
        """Return random token ids, different for every prompt."""
        first = min(FIRST_TOKEN_ID, self._vocab_size // 2)
        return tuple(self._rng.choices(range(first, self._vocab_size), k=tokens))

    def start(self, prompts: list[tuple[int, ...]]) -> None:
        """Run the prompts and leave their requests decoding, all in one batch."""
        self._streams = [self._add(prompt, self.engine.max_len) for prompt in prompts]
        self.step()

    def step(self) -> float:
        """Step until every stream has its next token; return the seconds."""
        waiting = set(self._streams)
        started_s = time.perf_counter()
        while waiting:
            waiting -= {output.request_id for output in self._outputs()}
        return time.perf_counter() - started_s

    def stop(self) -> None:
        """End all streams."""
        for request_id in self._streams:
            self.engine.abort(request_id)
        self._streams = []

    def first_token(self, prompt: tuple[int, ...]) -> float:
        """Return the seconds from a prompt's arrival to its first token."""
        return self.answer(prompt, 1)[0]

    def answer(self, prompt: tuple[int, ...], tokens: int) -> tuple[float, tuple[int, ...]]:
        """Generate so many tokens; return the seconds to the first token, and the tokens."""
        started_s = time.perf_counter()
        request_id = self._add(prompt, tokens)
        token_ids: tuple[int, ...] = ()
        first_s = 0.0
        while self.engine.has_work:
            for output in self._outputs():
                if output.request_id == request_id:
                    first_s = first_s or time.perf_counter() - started_s
                    token_ids += output.token_ids
        if len(token_ids) != tokens:
            raise RuntimeError(f"the engine gave {len(token_ids)} tokens of {tokens}")
        return first_s, token_ids

    def disturb(self, prompt: tuple[int, ...], gaps: Gaps, plain_steps: int) -> None:
        """Add a prompt to the running streams; append the times between their tokens to `gaps`."""
        for _ in range(plain_steps):
            gaps.plain.append(self.step())
        last_s = dict.fromkeys(self._streams, time.perf_counter())
        prompt_id, has_token = self._add(prompt, 1), False
        while not has_token:
            outputs = self._outputs()
            now_s = time.perf_counter()
            for output in outputs:
                if output.request_id == prompt_id:
                    has_token = True
                elif output.request_id in last_s:
                    gaps.disturbed.append(now_s - last_s[output.request_id])
                    last_s[output.request_id] = now_s
        # A stream that the last step left out has waited, too.
        gaps.disturbed += [now_s - then_s for then_s in last_s.values() if then_s < now_s]

    def _outputs(self) -> list[Output]:
        """Run a step. Raises RuntimeError if a request fails: its times mean nothing."""
        outputs = self.engine.step()
        for output in outputs:
            if output.finish_reason == "error":
                raise RuntimeError(f"the engine failed a request: {output.error}")
        return outputs

    def _add(self, prompt: tuple[int, ...], max_tokens: int) -> str:
        self._count += 1
        request_id = f"r{self._count}"
        sampling = SamplingParams(seed=0, max_tokens=max_tokens, temperature=0.0)
        self.engine.add(Generate(request_id, prompt, sampling))
        return request_id
