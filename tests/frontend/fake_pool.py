"""A pool without workers: its tokens are a fixed text's, or whatever a test says."""

import asyncio
from array import array
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace

from headrace.frontend.pool.interface import LiveLoad, PoolBusy, PoolError
from headrace.protocol.call_results import AnyResult
from headrace.protocol.calls import AdminCall, AnyCall, CallTarget, ErrorKind
from headrace.protocol.sampling import SamplingParams
from headrace.protocol.state import (
    READY,
    AdapterState,
    GroupState,
    PoolState,
    WorkerLoad,
    WorkerState,
    WorkerStatus,
)
from headrace.protocol.to_frontend import (
    Admission,
    CallAnswer,
    FinishReason,
    Logprobs,
    Output,
    Pooled,
    PoolResult,
)
from headrace.protocol.to_worker import Encode, Generate

Reply = Callable[[Generate], list[int]]
Numbers = Callable[[Encode], Pooled]


def pool_state(
    worker_state: WorkerStatus = READY, adapters: tuple[AdapterState, ...] = ()
) -> PoolState:
    worker = WorkerState("main-0.0", "main", 1, worker_state, "", WorkerLoad(0, 0, 0.0, 0, 0.0))
    return PoolState("epoch", 1, (GroupState("main", 1, "", adapters=adapters),), (worker,), ())


def logprobs_of(token_id: int, top: int, named: tuple[int, ...] = ()) -> Logprobs:
    """The token itself is the likeliest, the others are the ids above it. Named ones are the less
    likely the greater they are."""
    if named:
        return Logprobs(token_id, -0.25, 1, named, tuple(-float(name) for name in named))
    others = tuple(token_id + rank for rank in range(top))
    values = tuple(-0.25 - rank for rank in range(top))
    return Logprobs(token_id, -0.25, 1, others, values)


@dataclass
class FakePool:
    """Answers every request with `reply(request)`, one output per token (`per_output` of them).

    fail_after: how many outputs come before `failure` is raised; None: no failure.
    hold_after: how many outputs come before nothing more does, until `release` is set.
    hold_from: how many streams come before those that are held. held_tenant: the only tenant
        with streams that are held; None: every tenant.
    busy: what requests fail with before they are looked at.
    calls: the admin calls that were made, and their targets. values: what a worker answers, by the
        classes of calls. errors: why they cannot be executed, and of which kind that is.
    numbers: the numbers of texts. encoded: the requests for them.
    reason: why texts end, whatever their tokens say. error: what their last outputs say of it.
    change: makes of each output what comes instead.
    cached_tokens, written_tokens: prompt tokens that workers find in their caches, and add to them.
    """

    reply: Reply
    per_output: int = 1
    failure: PoolError | Exception | None = None
    fail_after: int = 0
    hold_after: int | None = None
    hold_from: int = 0
    held_tenant: str | None = None
    busy: PoolBusy | None = None
    reason: FinishReason | None = None
    error: str | None = None
    cached_tokens: int = 0
    written_tokens: int = 0
    change: Callable[[Generate, Output], Output] = field(default=lambda _, output: output)
    state: PoolState | None = field(default_factory=pool_state)
    live: LiveLoad = field(default_factory=LiveLoad)
    calls: list[tuple[AnyCall, CallTarget]] = field(default_factory=list)
    values: dict[type[AdminCall], AnyResult] = field(default_factory=dict)
    errors: dict[type[AdminCall], tuple[str, ErrorKind]] = field(default_factory=dict)
    numbers: Numbers = field(default=lambda request: three_numbers(request))
    encoded: list[Encode] = field(default_factory=list, repr=False)
    encodings: list["FakeEncoding"] = field(default_factory=list, repr=False)
    requests: list[Generate] = field(default_factory=list, repr=False)
    streams: list["FakeStream"] = field(default_factory=list, repr=False)
    release: asyncio.Event = field(default_factory=asyncio.Event)
    _started: asyncio.Event = field(default_factory=asyncio.Event)

    async def wait_for_streams(self, count: int) -> None:
        while len(self.streams) < count:
            self._started.clear()
            await asyncio.wait_for(self._started.wait(), 5)

    def live_load(self) -> LiveLoad:
        return self.live

    def why_busy(self) -> PoolBusy | None:
        return self.busy

    async def call(self, call: AnyCall, target: CallTarget, timeout_s: float) -> PoolResult:
        self.calls.append((call, target))
        if type(call) in self.errors:
            return PoolResult("", (), *self.errors[type(call)])
        value = self.values.get(type(call))
        return PoolResult("", (CallAnswer("main-0.0", value, "", 0.0),))

    def generate(self, group: str, request: Generate) -> "FakeStream":
        self.requests.append(request)
        stream = FakeStream(self, request)
        self.streams.append(stream)
        self._started.set()
        return stream

    def encode(self, group: str, request: Encode) -> "FakeEncoding":
        self.encoded.append(request)
        self.encodings.append(FakeEncoding(self, request))
        return self.encodings[-1]


def three_numbers(request: Encode) -> Pooled:
    """The sum of the tokens, how many they are, and a fraction."""
    ids = request.prompt_token_ids
    values = [float(sum(ids)), float(len(ids)), 0.1][: request.dimensions]
    return Pooled(array("f", values).tobytes(), (len(values),))


class FakeEncoding:
    """The only output of a text; it comes when the pool's `release` is set, if it is held."""

    def __init__(self, pool: FakePool, request: Encode) -> None:
        self._pool, self.request, self.cancelled = pool, request, False
        self._is_held = pool.hold_after == 0 and len(pool.encodings) >= pool.hold_from

    def __aiter__(self) -> AsyncIterator[Output]:
        return self

    async def __anext__(self) -> Output:
        await asyncio.sleep(0)
        pool, name = self._pool, self.request.request_id
        if pool.failure is not None:
            raise pool.failure
        if self._is_held:
            await pool.release.wait()
        admission = Admission(0, queue_s=0.5, prefill_s=0.25, engine="0")
        if pool.error is not None:
            reason = pool.reason or "rejected"
            return Output(name, (), 0, reason, admission=admission, error=pool.error)
        return Output(name, (), 0, "stop", admission=admission, pooled=pool.numbers(self.request))

    def ready(self) -> None:
        """Nothing has ever come before it is waited for."""

    def cancel(self) -> None:
        self.cancelled = True


class FakeStream:
    def __init__(self, pool: FakePool, request: Generate) -> None:
        self.cancelled = False
        self._left = asyncio.Event()
        self._is_held = len(pool.streams) >= pool.hold_from and pool.held_tenant in (
            None,
            request.tenant,
        )
        self.request = request
        self._outputs = self._run(pool, request)

    def __aiter__(self) -> AsyncIterator[Output]:
        return self

    async def __anext__(self) -> Output:
        return await self._outputs.__anext__()

    def ready(self) -> None:
        """Nothing has ever come before it is waited for."""

    def cancel(self) -> None:
        self.cancelled = True
        self._left.set()

    async def _released(self, pool: FakePool) -> None:
        """Wait until the pool continues, or the request is aborted."""
        waits = [asyncio.ensure_future(event.wait()) for event in (pool.release, self._left)]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    async def _run(self, pool: FakePool, request: Generate) -> AsyncIterator[Output]:
        tokens, reason, stop_token = _ended(pool.reply(request), request.sampling)
        reason = pool.reason or reason
        size = pool.per_output
        for number, start in enumerate(range(0, len(tokens), size)):
            await asyncio.sleep(0)
            if pool.failure is not None and number == pool.fail_after:
                raise pool.failure
            if self._is_held and number == pool.hold_after:
                await self._released(pool)
                if self.cancelled:
                    return
            last = start + size >= len(tokens)
            end = (reason, stop_token) if last else None
            cache = (pool.cached_tokens, pool.written_tokens)
            output = _output(request, tokens[start : start + size], start, end, cache)
            yield pool.change(request, replace(output, error=pool.error if last else None))


def _ended(
    tokens: list[int], sampling: SamplingParams
) -> tuple[list[int], FinishReason, int | None]:
    """What a worker would have sampled of these tokens."""
    for count, token_id in enumerate(tokens[: sampling.max_tokens], start=1):
        if token_id in sampling.eos_token_ids:
            return tokens[:count], "stop", None
        if token_id in sampling.stop_token_ids:
            return tokens[:count], "stop", token_id
    return tokens[: sampling.max_tokens], "length", None


def _output(
    request: Generate,
    tokens: list[int],
    position: int,
    end: tuple[FinishReason, int | None] | None,
    cache: tuple[int, int],
) -> Output:
    top, named = request.sampling.logprobs, request.sampling.logprob_token_ids
    return Output(
        request_id=request.request_id,
        token_ids=tuple(tokens),
        position=position,
        finish_reason=end[0] if end else None,
        stop_token_id=end[1] if end else None,
        logprobs=None if top is None else tuple(logprobs_of(token, top, named) for token in tokens),
        admission=_admission(request, *cache) if position == 0 else None,
    )


def _admission(request: Generate, cached_tokens: int, written_tokens: int) -> Admission:
    top = request.sampling.prompt_logprobs
    of_prompt = None
    if top is not None:
        of_prompt = tuple(logprobs_of(token, top) for token in request.prompt_token_ids[1:])
    return Admission(
        cached_tokens,
        queue_s=0.5,
        prefill_s=0.25,
        prompt_logprobs=of_prompt,
        engine="0",
        written_tokens=written_tokens,
    )
