"""The grammars of requests: compiled once, cached, and shared by requests that wait for them."""

import asyncio
import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, replace

from headrace.frontend.errors import BadRequest, TooManyRequests
from headrace.frontend.structured.checker_pool import (
    NUM_CHECKERS,
    CheckerPool,
    CheckFailed,
    CheckTooExpensive,
)
from headrace.frontend.structured.constraint import Constraint
from headrace.frontend.structured.fair_semaphore import FairSemaphore, WaitTimeout
from headrace.protocol.grammar import Grammar

MAX_CACHED_CHARS = 16 * 1024 * 1024
MAX_CACHED_GRAMMARS = 2048
MAX_WAITING = 256
MAX_WAIT_S = 10.0
RETRY_AFTER_S = 2
# What was too expensive will be again, unless the machine was busy with something else.
MAX_CACHED_TOO_EXPENSIVE = 1024
TOO_EXPENSIVE_TTL_S = 60.0


@dataclass(slots=True, eq=False)
class _PendingCheck:
    """A check that is queued or running.

    waiters: requests that wait for its result.
    has_begun: whether it has left the queue.
    """

    task: "asyncio.Task[Grammar | str]"
    waiters: int = 0
    has_begun: bool = False


class GrammarCache:
    """Compiles constraints, and caches the results.

    checkers: the processes that compile constraints.
    clock: returns seconds.
    """

    def __init__(self, checkers: CheckerPool, clock: Callable[[], float] = time.monotonic) -> None:
        self._checkers = checkers
        self._clock = clock
        self._semaphore = FairSemaphore(NUM_CHECKERS, MAX_WAITING, MAX_WAIT_S)
        self._cache: OrderedDict[bytes, Grammar | str] = OrderedDict()
        self._cached_chars = 0
        self._too_expensive: OrderedDict[bytes, tuple[float, str]] = OrderedDict()
        self._checks: dict[bytes, _PendingCheck] = {}

    async def compile(
        self, model: str, constraint: Constraint, after: Sequence[str] = (), client: str = ""
    ) -> Grammar:
        """Return the grammar that workers must enforce.

        model: the text folder of the model.
        after: texts after any of which the grammar applies.
        client: whose share of the checkers it uses.

        Raises BadRequest, naming the constraint's field, if it cannot be compiled, and
        TooManyRequests if too many others wait for a checker.
        """
        key = _key(model, constraint)
        result = self._cached(key)
        if result is None:
            result = await self._join_check(key, model, constraint, client)
        if isinstance(result, str):
            raise BadRequest(f"{constraint.field}: {result}.")
        return replace(result, after=tuple(after))

    def _cached(self, key: bytes) -> Grammar | str | None:
        result = self._cache.get(key)
        if result is not None:
            self._cache.move_to_end(key)
            return result
        expires_s, reason = self._too_expensive.get(key, (0.0, ""))
        return reason if self._clock() < expires_s else None

    async def _join_check(
        self, key: bytes, model: str, constraint: Constraint, client: str
    ) -> Grammar | str:
        """Return the result of a check, shared with all requests that wait for the same."""
        check = self._checks.get(key)
        if check is None:
            running = self._check(key, model, constraint, client)
            check = _PendingCheck(asyncio.get_running_loop().create_task(running))
            self._checks[key] = check
        check.waiters += 1
        try:
            # Shielded: the first request may be cancelled while others wait for the result.
            return await asyncio.shield(check.task)
        except WaitTimeout:
            headers = {"Retry-After": str(RETRY_AFTER_S)}
            message = f"{constraint.field}: too many grammars are being compiled."
            raise TooManyRequests(message, None, headers) from None
        finally:
            check.waiters -= 1
            if not check.waiters and not check.has_begun:
                self._remove_check(key, check)
                check.task.cancel()

    def _remove_check(self, key: bytes, check: _PendingCheck) -> None:
        if self._checks.get(key) is check:
            del self._checks[key]

    async def _check(
        self, key: bytes, model: str, constraint: Constraint, client: str
    ) -> Grammar | str:
        """Return the grammar, or the reason why there is none.

        Raises WaitTimeout if no checker was free in time.
        """
        check = self._checks[key]
        try:
            async with self._semaphore.acquire(client):
                check.has_begun = True
                return await self._run_checker(key, model, constraint)
        finally:
            self._remove_check(key, check)

    async def _run_checker(self, key: bytes, model: str, constraint: Constraint) -> Grammar | str:
        try:
            text = await self._checkers.check(model, constraint)
        except CheckTooExpensive as error:
            return self._store_too_expensive(key, str(error))
        except CheckFailed as error:
            return self._store(key, str(error).rstrip("."))
        return self._store(key, Grammar(constraint.kind, text))

    def _store_too_expensive(self, key: bytes, reason: str) -> str:
        self._too_expensive.pop(key, None)
        self._too_expensive[key] = (self._clock() + TOO_EXPENSIVE_TTL_S, reason)
        if len(self._too_expensive) > MAX_CACHED_TOO_EXPENSIVE:
            self._too_expensive.popitem(last=False)
        return reason

    def _store(self, key: bytes, result: Grammar | str) -> Grammar | str:
        self._cache[key] = result
        self._cached_chars += _size(result)
        while len(self._cache) > MAX_CACHED_GRAMMARS or self._cached_chars > MAX_CACHED_CHARS:
            self._cached_chars -= _size(self._cache.popitem(last=False)[1])
        return result


def _key(model: str, constraint: Constraint) -> bytes:
    """Return a key that is equal for equal constraints, whichever field they came in."""
    description = repr((model, *astuple(replace(constraint, field=""))))
    return hashlib.blake2b(description.encode("utf-8", "surrogatepass"), digest_size=24).digest()


def _size(result: Grammar | str) -> int:
    return len(result if isinstance(result, str) else result.text)
