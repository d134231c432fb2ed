"""Beam search: find the n likeliest outputs by keeping, at each token, the n likeliest beginnings.

Each step asks the pool for one token of each beam, with the log probabilities of twice as many
tokens as there are beams. What the beams have in common is in the workers' prefix caches, so that a
step costs little more than a decode.

The score of an output is the sum of its tokens' log probabilities, divided by the length of prompt
and output to the power of the length penalty, as in the reference. A beam that ends at a stop token
is finished and set aside; the search ends when no beam can score better than the finished ones, or
at max_tokens.
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

# Tokens that are sent without yielding to the event loop: a million take 20 ms.
_MAX_TOKENS_WITHOUT_PAUSE = 64 * 1024

SubmitRequest = Callable[[Generate], OutputStream]


@dataclass(frozen=True, slots=True)
class Beam:
    """The beginning of an output.

    logprob_sum: the sum of its tokens' log probabilities.
    logprobs: the log probabilities at each token.
    stop_token_id: the stop token at its end; None while it can go on.
    """

    token_ids: tuple[int, ...] = ()
    logprob_sum: float = 0.0
    logprobs: tuple[Logprobs, ...] = ()
    stop_token_id: int | None = None


class _Candidate(NamedTuple):
    """A beam with one more token.

    logprob: the log probabilities at that token.
    """

    beam: Beam
    logprob_sum: float
    logprob: Logprobs

    @property
    def token_id(self) -> int:
        return self.logprob.token_id

    def to_beam(self, ended: bool = False) -> Beam:
        return Beam(
            (*self.beam.token_ids, self.token_id),
            self.logprob_sum,
            (*self.beam.logprobs, self.logprob),
            self.token_id if ended else None,
        )


class BeamSearch:
    """The beam search of one prompt.

    request: the message for one output; its sampling parameters say where outputs end.
    width: number of beams and of outputs.
    generate: submits a request to the pool.
    new_id: makes ids for requests.
    """

    def __init__(
        self,
        request: Generate,
        width: int,
        length_penalty: float,
        generate: SubmitRequest,
        new_id: Callable[[], str],
    ) -> None:
        self._request = request
        self._width = width
        self._length_penalty = length_penalty
        self._generate = generate
        self._new_id = new_id
        self._task: asyncio.Task[list[Beam]] | None = None
        self._streams: list[OutputStream] = []
        self._num_open = width
        self.admission: Admission | None = None

    def streams(self) -> list["BeamStream"]:
        """Return the outputs, the best first, each as a stream of a single output message."""
        return [BeamStream(self, rank) for rank in range(self._width)]

    async def result(self, rank: int) -> Output:
        """Return the output of this rank, from 0. Raises PoolError if the pool fails."""
        if self._task is None:
            self._task = asyncio.create_task(self._search())
        try:
            beam = (await asyncio.shield(self._task))[rank]
        except asyncio.CancelledError:
            if _is_current_task_cancelled():
                raise
            raise InternalError(FAILURE) from None  # the search was cancelled
        ended = beam.stop_token_id is not None
        return Output(
            self._request.request_id,
            beam.token_ids,
            0,
            "stop" if ended else "length",
            stop_token_id=beam.stop_token_id,
            logprobs=None if self._request.sampling.logprobs is None else beam.logprobs,
            admission=self.admission,
        )

    def cancel(self) -> None:
        """Drop one of the outputs; once all are dropped, cancel the search."""
        self._num_open -= 1
        if self._num_open > 0:
            return
        if self._task is not None:
            # Its streams end first, so that it may fail; asyncio would log that failure.
            self._task.add_done_callback(_ignore_failure)
            self._task.cancel()
        for stream in self._streams:
            stream.cancel()

    async def _search(self) -> list[Beam]:
        sampling = self._request.sampling
        ends = {*sampling.eos_token_ids, *sampling.stop_token_ids}
        beams, finished = [Beam()], list[Beam]()
        for length in range(1, sampling.max_tokens + 1):
            candidates = sorted(
                await self._extend(beams), key=attrgetter("logprob_sum"), reverse=True
            )
            ended = [each for each in candidates if each.token_id in ends][: self._width]
            finished += [candidate.to_beam(ended=True) for candidate in ended]
            finished = sorted(finished, key=self._score, reverse=True)[: self._width]
            continuing = [each for each in candidates if each.token_id not in ends][: self._width]
            beams = [candidate.to_beam() for candidate in continuing]
            if not beams or self._is_settled(finished, beams, length):
                break
        return sorted([*finished, *beams], key=self._score, reverse=True)[: self._width]

    async def _extend(self, beams: Sequence[Beam]) -> list[_Candidate]:
        """Return every beam with each of its likeliest next tokens."""
        self._streams = []
        outputs = await self._run_beams(beams)
        if self.admission is None:
            self.admission = outputs[0].admission
        return [
            _Candidate(beam, beam.logprob_sum + token.logprob, token)
            for beam, output in zip(beams, outputs, strict=True)
            for token in self._likeliest(output)
        ]

    async def _run_beams(self, beams: Sequence[Beam]) -> list[Output]:
        """Generate one token of each beam; if one fails, cancel the others."""
        tasks, pending_tokens = [], 0
        try:
            async with asyncio.TaskGroup() as group:
                for beam in beams:
                    request = self._make_request(beam)
                    self._streams.append(self._generate(request))
                    tasks.append(group.create_task(_first_output(self._streams[-1])))
                    pending_tokens += len(request.prompt_token_ids)
                    if pending_tokens > _MAX_TOKENS_WITHOUT_PAUSE:
                        await asyncio.sleep(0)  # lets them be sent, and other requests run
                        pending_tokens = 0
        except* Exception as failed:
            for stream in self._streams:
                stream.cancel()
            raise failed.exceptions[0] from None
        return [task.result() for task in tasks]

    def _make_request(self, beam: Beam) -> Generate:
        """Return the request for the token after a beam."""
        sampling = self._request.sampling
        one_token = SamplingParams(
            seed=0,
            max_tokens=1,
            temperature=0.0,
            logprobs=max(2 * self._width, sampling.logprobs or 0),
            prompt_logprobs=None if beam.token_ids else sampling.prompt_logprobs,
        )
        prompt = (*self._request.prompt_token_ids, *beam.token_ids)
        return replace(
            self._request,
            request_id=self._new_id(),
            prompt_token_ids=prompt,
            sampling=one_token,
        )

    def _likeliest(self, output: Output) -> list[Logprobs]:
        """Return the log probabilities to show for each of the likeliest tokens."""
        error = error_of(output)
        if error is not None or not output.logprobs:
            raise error or InternalError(FAILURE)
        position = output.logprobs[0]
        shown = self._request.sampling.logprobs or 0
        top = position.top_token_ids[:shown], position.top_logprobs[:shown]
        pairs = list(zip(position.top_token_ids, position.top_logprobs, strict=True))
        return [
            Logprobs(token_id, logprob, rank, *top)
            for rank, (token_id, logprob) in enumerate(pairs[: 2 * self._width], start=1)
        ]

    def _score(self, beam: Beam) -> float:
        length = len(beam.token_ids) - (beam.stop_token_id is not None)
        return beam.logprob_sum / self._divisor(length)

    def _divisor(self, length: int) -> float:
        total_length = len(self._request.prompt_token_ids) + length
        return math.pow(total_length, self._length_penalty)

    def _is_settled(self, finished: Sequence[Beam], beams: Sequence[Beam], length: int) -> bool:
        """Return whether no beam can score better than the finished ones.

        More tokens only lower a beam's sum, and the divisor is largest at one of the two possible
        lengths.
        """
        if len(finished) < self._width:
            return False
        max_tokens = self._request.sampling.max_tokens
        divisor = max(self._divisor(length), self._divisor(max_tokens))
        return beams[0].logprob_sum / divisor <= self._score(finished[-1])


def _is_current_task_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _ignore_failure(task: "asyncio.Task[list[Beam]]") -> None:
    """Retrieve the failure of a task that is not awaited, so that asyncio does not log it."""
    if not task.cancelled():
        task.exception()


async def _first_output(stream: OutputStream) -> Output:
    async for output in stream:
        return output
    raise InternalError(FAILURE)


class BeamStream:
    """One of the outputs of a search; implements headrace.frontend.pool.interface.OutputStream."""

    def __init__(self, search: BeamSearch, rank: int) -> None:
        self._search = search
        self._rank = rank
        self._is_read = False
        self._is_cancelled = False

    def __aiter__(self) -> AsyncIterator[Output]:
        return self

    async def __anext__(self) -> Output:
        if self._is_read:
            raise StopAsyncIteration
        self._is_read = True
        return await self._search.result(self._rank)

    def ready(self) -> Output | None:
        return None

    def cancel(self) -> None:
        if not self._is_cancelled:
            self._is_cancelled = True
            self._search.cancel()
