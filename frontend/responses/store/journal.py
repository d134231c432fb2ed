"""What has made a response as it is: everything that would not come again the same.

Tokens, what tools have answered, ids that parsers have made up. From the request and these, the
same items and events follow, so that a response whose frontend has died goes on elsewhere: its
events are made again from the journal up to where they end, and then from what is new.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from headrace.frontend.pool.interface import OutputStream, Pool, PoolBusy, PoolUnavailable, Scope
from headrace.protocol.state import PoolState
from headrace.protocol.to_frontend import Admission, Logprobs, Output, PoolResult
from headrace.protocol.to_worker import Generate

# ["output", turn, tokens, finish reason, stop token, cached tokens, logprobs], ["value", key, it]
Entry = list[Any]


class Journal:
    """known: the entries that another frontend has left."""

    def __init__(self, known: Iterable[Entry] = ()) -> None:
        self._outputs: dict[int, list[Output]] = {}
        self._values: dict[str, Any] = {}
        self._new: list[Entry] = []
        for entry in known:
            if entry[0] == "output":
                turn = self._outputs.setdefault(entry[1], [])
                last = turn[-1] if turn else None
                turn.append(_read(entry, last.position + len(last.token_ids) if last else 0))
            else:
                self._values[entry[1]] = entry[2]

    def take(self) -> list[Entry]:
        """The entries since the last call, which are to be stored."""
        new, self._new = self._new, []
        return new

    def outputs(self, turn: int) -> list[Output]:
        """What is known of a turn."""
        return self._outputs.get(turn, [])

    def add_output(self, turn: int, output: Output) -> None:
        if output.error is None:
            self._new.append(_written(turn, output))

    def value(self, key: str, made: Any) -> Any:
        """What is known under this key; if nothing is, `made`, which is JSON."""
        if key not in self._values:
            self._values[key] = made
            self._new.append(["value", key, made])
        return self._values[key]

    async def asked(self, key: str, ask: Callable[[], Awaitable[Any]]) -> Any:
        """What is known under this key; asked for if nothing is."""
        return self._values[key] if key in self._values else self.value(key, await ask())


class JournaledPool:
    """A Pool whose requests are turns of the response: what the journal knows of one is not run
    again, and what is new is written down. turn: which one the next request is.

    patience_s: for so long a request waits for a worker that takes it, or goes on with it.
    """

    def __init__(self, pool: Pool, journal: Journal, patience_s: float = 0.0) -> None:
        self._pool = pool
        self._journal = journal
        self._patience_s = patience_s
        self.turn = 0

    @property
    def state(self) -> PoolState | None:
        return self._pool.state

    def why_busy(self) -> PoolBusy | None:
        return self._pool.why_busy()

    async def call(
        self, method: str, arguments: dict[str, Any], scope: Scope, timeout_s: float
    ) -> PoolResult:
        return await self._pool.call(method, arguments, scope, timeout_s)

    def generate(self, group: str, request: Generate) -> OutputStream:
        known = self._journal.outputs(self.turn)

        def generate(token_ids: Sequence[int]) -> OutputStream:
            return self._pool.generate(group, replace(request, output_token_ids=tuple(token_ids)))

        def note(output: Output, turn: int = self.turn) -> None:
            self._journal.add_output(turn, output)

        return _JournaledStream(generate, note, known, self._patience_s)


class _JournaledStream:
    """generate: runs the request again, after these tokens. note: takes what is new."""

    def __init__(
        self,
        generate: Callable[[Sequence[int]], OutputStream],
        note: Callable[[Output], None],
        known: list[Output],
        patience_s: float,
    ) -> None:
        self._generate = generate
        self._note = note
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
                return self._noted(await anext(self._stream))
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
        return None if output is None else self._noted(output)

    def cancel(self) -> None:
        self._stream.cancel()

    def _noted(self, output: Output) -> Output:
        if self._has_begun:  # it was admitted when it was first run
            output = replace(output, admission=None)
        self._has_begun = True
        self._token_ids += output.token_ids
        self._note(output)
        return output


def _written(turn: int, output: Output) -> Entry:
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


def _read(entry: Entry, position: int) -> Output:
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
