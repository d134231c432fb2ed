"""Beam search: the n likeliest texts found by keeping, at each token, the n likeliest beginnings.

Each step asks the pool for one token of each beam with the log probabilities of twice as many
tokens as there are beams. What the beams have in common is in the workers' prefix caches, so a step
costs little more than a decode.

The score of a text is the sum of its tokens' log probabilities, divided by the length of prompt and
output to the power of the length penalty, as the reference has it. A text that ends at a stop token
leaves the beams and is kept; the search is over when no beam can do better than those kept, or at
max_tokens.
"""

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import NamedTuple

from headrace.frontend.errors import FAILURE, InternalError, error_of
from headrace.frontend.pool.interface import OutputStream
from headrace.protocol.sampling import SamplingParams
from headrace.protocol.to_frontend import Admission, Logprobs, Output
from headrace.protocol.to_worker import Generate

# Tokens of beams that are sent in one turn of the event loop: to write a million takes 20 ms.
_TOKENS_AT_ONCE = 64 * 1024

Generator = Callable[[Generate], OutputStream]


@dataclass(frozen=True, slots=True)
class Beam:
    """total: the sum of the log probabilities of its tokens. known: what is known of each of them.
    ended_by: the stop token at its end; None: it can go on."""

    token_ids: tuple[int, ...] = ()
    total: float = 0.0
    known: tuple[Logprobs, ...] = ()
    ended_by: int | None = None


class _Step(NamedTuple):
    """A beam with one token more; `known` tells of the token."""

    beam: Beam
    total: float
    known: Logprobs

    @property
    def token_id(self) -> int:
        return self.known.token_id

    def taken(self, ended: bool = False) -> Beam:
        return Beam(
            (*self.beam.token_ids, self.token_id),
            self.total,
            (*self.beam.known, self.known),
            self.token_id if ended else None,
        )


class BeamSearch:
    """The search for one prompt.

    request: asks for one of the texts; its sampling says when they end. width: of the search.
    generate: sends a request to the pool. new_id: makes names for requests.
    """

    def __init__(
        self,
        request: Generate,
        width: int,
        length_penalty: float,
        generate: Generator,
        new_id: Callable[[], str],
    ) -> None:
        self._request = request
        self._width = width
        self._length_penalty = length_penalty
        self._generate = generate
        self._new_id = new_id
        self._task: asyncio.Task[list[Beam]] | None = None
        self._streams: list[OutputStream] = []
        self._open = width
        self.admission: Admission | None = None

    def streams(self) -> list["BeamStream"]:
        """The texts found, the best first, each as a stream of one output."""
        return [BeamStream(self, place) for place in range(self._width)]

    async def found(self, place: int) -> Output:
        """The `place`-th best text. Raises PoolError if the pool cannot run the search."""
        if self._task is None:
            self._task = asyncio.create_task(self._search())
        try:
            beam = (await asyncio.shield(self._task))[place]
        except asyncio.CancelledError:
            if _is_cancelled_itself():
                raise
            raise InternalError(FAILURE) from None  # the search is
        ended = beam.ended_by is not None
        return Output(
            self._request.request_id,
            beam.token_ids,
            0,
            "stop" if ended else "length",
            stop_token_id=beam.ended_by,
            logprobs=None if self._request.sampling.logprobs is None else beam.known,
            admission=self.admission,
        )

    def cancel(self) -> None:
        """One of the texts is not wanted any more; when none is, all is freed."""
        self._open -= 1
        if self._open > 0:
            return
        if self._task is not None:
            # Its streams end first, which it may take for a failure that somebody has to see.
            self._task.add_done_callback(_pass_over)
            self._task.cancel()
        for stream in self._streams:
            stream.cancel()

    async def _search(self) -> list[Beam]:
        sampling = self._request.sampling
        ends = {*sampling.eos_token_ids, *sampling.stop_token_ids}
        beams, kept = [Beam()], list[Beam]()
        for length in range(1, sampling.max_tokens + 1):
            steps = sorted(await self._steps(beams), key=attrgetter("total"), reverse=True)
            ended = [step for step in steps if step.token_id in ends][: self._width]
            kept += [step.taken(ended=True) for step in ended]
            kept = sorted(kept, key=self._score, reverse=True)[: self._width]
            going_on = [step for step in steps if step.token_id not in ends][: self._width]
            beams = [step.taken() for step in going_on]
            if not beams or (len(kept) == self._width and self._is_settled(kept, beams, length)):
                break
        return sorted([*kept, *beams], key=self._score, reverse=True)[: self._width]

    async def _steps(self, beams: Sequence[Beam]) -> list[_Step]:
        """All beams with each of their likeliest next tokens."""
        self._streams = []
        outputs = await self._gather(beams)
        if self.admission is None:
            self.admission = outputs[0].admission
        return [
            _Step(beam, beam.total + known.logprob, known)
            for beam, output in zip(beams, outputs, strict=True)
            for known in self._choices(output)
        ]

    async def _gather(self, beams: Sequence[Beam]) -> list[Output]:
        """A token more of each beam; if one fails, the others are cancelled."""
        tasks, unpaused = [], 0
        try:
            async with asyncio.TaskGroup() as group:
                for beam in beams:
                    request = self._ask(beam)
                    self._streams.append(self._generate(request))
                    tasks.append(group.create_task(_first(self._streams[-1])))
                    unpaused += len(request.prompt_token_ids)
                    if unpaused > _TOKENS_AT_ONCE:
                        await asyncio.sleep(0)  # they are sent now, and others have their turn
                        unpaused = 0
        except* Exception as failed:
            for stream in self._streams:
                stream.cancel()
            raise failed.exceptions[0] from None
        return [task.result() for task in tasks]

    def _ask(self, beam: Beam) -> Generate:
        """The request for the token after a beam."""
        asked = self._request.sampling
        one_token = SamplingParams(
            seed=0,
            max_tokens=1,
            temperature=0.0,
            logprobs=max(2 * self._width, asked.logprobs or 0),
            prompt_logprobs=None if beam.token_ids else asked.prompt_logprobs,
        )
        prompt = (*self._request.prompt_token_ids, *beam.token_ids)
        return replace(
            self._request,
            request_id=self._new_id(),
            prompt_token_ids=prompt,
            sampling=one_token,
        )

    def _choices(self, output: Output) -> list[Logprobs]:
        """For each of the likeliest tokens what an answer tells that has it."""
        error = error_of(output)
        if error is not None or not output.logprobs:
            raise error or InternalError(FAILURE)
        at = output.logprobs[0]
        shown = self._request.sampling.logprobs or 0
        top = at.top_token_ids[:shown], at.top_logprobs[:shown]
        pairs = list(zip(at.top_token_ids, at.top_logprobs, strict=True))[: 2 * self._width]
        return [
            Logprobs(token_id, logprob, rank, *top)
            for rank, (token_id, logprob) in enumerate(pairs, start=1)
        ]

    def _score(self, beam: Beam) -> float:
        return beam.total / self._divisor(len(beam.token_ids) - (beam.ended_by is not None))

    def _divisor(self, length: int) -> float:
        whole = len(self._request.prompt_token_ids) + length
        return math.pow(whole, self._length_penalty)

    def _is_settled(self, kept: Sequence[Beam], beams: Sequence[Beam], length: int) -> bool:
        """Whether no beam can become better than all that are kept. More tokens only lower a
        beam's total, and what it is divided by is largest at one of the ends."""
        longest = self._request.sampling.max_tokens
        divisor = max(self._divisor(length), self._divisor(longest))
        return beams[0].total / divisor <= self._score(kept[-1])


def _is_cancelled_itself() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _pass_over(task: "asyncio.Task[list[Beam]]") -> None:
    """Nobody waits for what a task has failed of."""
    if not task.cancelled():
        task.exception()


async def _first(stream: OutputStream) -> Output:
    async for output in stream:
        return output
    raise InternalError(FAILURE)


class BeamStream:
    """One of the texts of a search; see headrace.frontend.pool.interface.OutputStream."""

    def __init__(self, search: BeamSearch, place: int) -> None:
        self._search = search
        self._place = place
        self._is_read = False
        self._is_cancelled = False

    def __aiter__(self) -> AsyncIterator[Output]:
        return self

    async def __anext__(self) -> Output:
        if self._is_read:
            raise StopAsyncIteration
        self._is_read = True
        return await self._search.found(self._place)

    def ready(self) -> Output | None:
        return None

    def cancel(self) -> None:
        if not self._is_cancelled:
            self._is_cancelled = True
            self._search.cancel()
