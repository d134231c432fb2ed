"""Record the results that are not deterministic in a response's run, so that it can be replayed.

The journal holds tokens, tool results and ids that parsers have generated. The request and the
journal determine all items and events, so another frontend can resume a response: it replays the
journal, which makes the same events again, and then continues to generate.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from headrace.frontend.pool.interface import LiveLoad, OutputStream, Pool, PoolBusy, PoolUnavailable
from headrace.protocol.calls import AnyCall, CallTarget
from headrace.protocol.state import PoolState
from headrace.protocol.to_frontend import Admission, Logprobs, Output, PoolResult
from headrace.protocol.to_worker import Encode, Generate

# ["output", turn, token ids, finish reason, stop token, cached tokens, logprobs] or
# ["value", key, value]
Entry = list[Any]


class Journal:
    """The journal of one response. known: the entries that an earlier run has stored."""

    def __init__(self, known: Iterable[Entry] = ()) -> None:
        self._outputs: dict[int, list[Output]] = {}
        self._values: dict[str, Any] = {}
        self._new: list[Entry] = []
        for entry in known:
            if entry[0] == "output":
                turn = self._outputs.setdefault(entry[1], [])
                last = turn[-1] if turn else None
                turn.append(
                    _decode_output(entry, last.position + len(last.token_ids) if last else 0)
                )
            else:
                self._values[entry[1]] = entry[2]

    def drain(self) -> list[Entry]:
        """Return the entries since the last call, which must be stored."""
        new, self._new = self._new, []
        return new

    def outputs(self, turn: int) -> list[Output]:
        """Return the recorded outputs of a turn."""
        return self._outputs.get(turn, [])

    def add_output(self, turn: int, output: Output) -> None:
        """Record an output of a turn, unless it is an error."""
        if output.error is None:
            self._new.append(_encode_output(turn, output))

    def get_or_record(self, key: str, value: Any) -> Any:
        """Return the recorded value of a key; if there is none, record this one, which is JSON."""
        if key not in self._values:
            self._values[key] = value
            self._new.append(["value", key, value])
        return self._values[key]

    async def get_or_request(self, key: str, request: Callable[[], Awaitable[Any]]) -> Any:
        """Return the recorded value of a key; if there is none, request and record it."""
        if key in self._values:
            return self._values[key]
        return self.get_or_record(key, await request())


class JournaledPool:
    """A Pool for the turns of one response: replays recorded outputs, and records new ones.

    turn: the turn that the next request is for.
    patience_s: how long a request waits for a worker that accepts it, or continues it.
    """

    def __init__(self, pool: Pool, journal: Journal, patience_s: float = 0.0) -> None:
        self._pool = pool
        self._journal = journal
        self._patience_s = patience_s
        self.turn = 0

    @property
    def state(self) -> PoolState | None:
        return self._pool.state

    def live_load(self) -> LiveLoad:
        return self._pool.live_load()

    def why_busy(self) -> PoolBusy | None:
        return self._pool.why_busy()

    async def call(self, call: AnyCall, target: CallTarget, timeout_s: float) -> PoolResult:
        return await self._pool.call(call, target, timeout_s)

    def encode(self, group: str, request: Encode) -> OutputStream:
        return self._pool.encode(group, request)

    def generate(self, group: str, request: Generate) -> OutputStream:
        known = self._journal.outputs(self.turn)

        def generate(token_ids: Sequence[int]) -> OutputStream:
            return self._pool.generate(group, replace(request, output_token_ids=tuple(token_ids)))

        def record(output: Output, turn: int = self.turn) -> None:
            self._journal.add_output(turn, output)

        return _JournaledStream(generate, record, known, self._patience_s)


class _JournaledStream:
    """Yields the known outputs, then those of a request that continues after them.

    generate: runs the request from these output tokens on. record: receives new outputs.
    """

    def __init__(
        self,
        generate: Callable[[Sequence[int]], OutputStream],
        record: Callable[[Output], None],
        known: list[Output],
        patience_s: float,
    ) -> None:
        self._generate = generate
        self._record = record
        self._known = list(reversed(known))
        self._token_ids = [token_id for output in known for token_id in output.token_ids]
        self._has_begun = bool(known)
        self._patience_s = patience_s
        self._stream = generate(self._token_ids)

    def __aiter__(self) -> "_JournaledStream":
        return self

    async def __anext__(self) -> Output:
        if self._known:
            return self._known.pop()
        deadline = time.monotonic() + self._patience_s
        while True:
            try:
                return self._process(await anext(self._stream))
            except (PoolBusy, PoolUnavailable) as error:
                if time.monotonic() >= deadline:
                    raise
                await asyncio.sleep(error.retry_after_s)
            self._stream.cancel()
            self._stream = self._generate(self._token_ids)

    def ready(self) -> Output | None:
        if self._known:
            return self._known.pop()
        output = self._stream.ready()
        return None if output is None else self._process(output)

    def cancel(self) -> None:
        self._stream.cancel()

    def _process(self, output: Output) -> Output:
        if self._has_begun:  # the first run has had its admission
            output = replace(output, admission=None)
        self._has_begun = True
        self._token_ids += output.token_ids
        self._record(output)
        return output


def _encode_output(turn: int, output: Output) -> Entry:
    admission = output.admission
    logprobs = None
    if output.logprobs is not None:
        logprobs = [
            [at.token_id, at.logprob, at.rank, at.top_token_ids, at.top_logprobs]
            for at in output.logprobs
        ]
    return [
        "output",
        turn,
        output.token_ids,
        output.finish_reason,
        output.stop_token_id,
        None if admission is None else admission.cached_tokens,
        logprobs,
    ]


def _decode_output(entry: Entry, position: int) -> Output:
    _, _, token_ids, reason, stop_token_id, cached, logprobs = entry
    return Output(
        request_id="",
        token_ids=tuple(token_ids),
        position=position,
        finish_reason=reason,
        stop_token_id=stop_token_id,
        logprobs=None
        if logprobs is None
        else tuple(
            Logprobs(token_id, logprob, rank, tuple(ids), tuple(tops))
            for token_id, logprob, rank, ids, tops in logprobs
        ),
        admission=None if cached is None else Admission(cached, 0.0, 0.0),
    )
