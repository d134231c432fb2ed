"""Drives an engine through a script of arrivals and gathers what each request got."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from headrace.protocol.sampling import SamplingParams
from headrace.protocol.to_frontend import Output
from headrace.protocol.to_worker import Generate
from headrace.workers.engine.replica_engine import ReplicaEngine


@dataclass
class Answer:
    """All outputs of one request."""

    outputs: list[Output] = field(default_factory=list)

    @property
    def tokens(self) -> list[int]:
        return [token for output in self.outputs for token in output.token_ids]

    @property
    def finish_reason(self) -> str | None:
        return self.outputs[-1].finish_reason


def request(
    name: str, prompt: Iterable[int], *, replayed: Iterable[int] = (), **params: Any
) -> Generate:
    """A greedy request unless `params` (of SamplingParams) say otherwise."""
    sampling = SamplingParams(**{"seed": 0, "max_tokens": 8, "temperature": 0.0, **params})
    return Generate(name, tuple(prompt), sampling, tuple(replayed))


def run(
    engine: ReplicaEngine,
    arrivals: Iterable[tuple[int, Generate]],
    before_step: Callable[[int], None] = lambda step: None,
) -> dict[str, Answer]:
    """Add each request before the step of its number, and step until all have ended."""
    waiting = sorted(arrivals, key=lambda arrival: arrival[0])
    answers = {arrived.request_id: Answer() for _, arrived in waiting}
    step = 0
    while waiting or engine.has_work:
        while waiting and waiting[0][0] <= step:
            engine.add(waiting.pop(0)[1])
        before_step(step)
        for output in engine.step():
            answer = answers[output.request_id]
            assert output.position >= len(answer.tokens)
            answer.outputs.append(output)
        step += 1
        assert step < 10_000, "the engine makes no progress"
    return answers
