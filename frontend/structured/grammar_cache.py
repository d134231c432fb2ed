"""Grammars of requests: checked once, kept while there is room, shared by who asks meanwhile."""

import asyncio
import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, replace

from headrace.frontend.errors import BadRequest, TooBusy
from headrace.frontend.structured.checker_pool import CHECKERS, CheckerPool, CheckFailed, CheckTooExpensive
from headrace.frontend.structured.constraint import Constraint
from headrace.frontend.structured.fair_semaphore import FairSemaphore, WaitTimeout
from headrace.protocol.grammar import Grammar

MAX_CACHED_CHARS = 16 * 1024 * 1024
MAX_CACHED_GRAMMARS = 2048
MAX_WAITING = 256
MAX_WAIT_S = 10.0
RETRY_AFTER_S = 2
# What was too expensive is so again, unless the machine was busy with something else.
MAX_CACHED_TOO_EXPENSIVE = 1024
TOO_EXPENSIVE_TTL_S = 60.0


@dataclass(slots=True, eq=False)
class _Check:
    """waiters: requests that want its result. has_begun: it has left the queue."""

    task: "asyncio.Task[Grammar | str]"
    waiters: int = 0
    has_begun: bool = False


class GrammarCache:
    """checkers: where constraints are compiled. clock: seconds."""

    def __init__(self, checkers: CheckerPool, clock: Callable[[], float] = time.monotonic) -> None:
        self._checkers = checkers
        self._clock = clock
        self._turns = FairSemaphore(CHECKERS, MAX_WAITING, MAX_WAIT_S)
        self._kept: OrderedDict[bytes, Grammar | str] = OrderedDict()
        self._kept_chars = 0
        self._expensive: OrderedDict[bytes, tuple[float, str]] = OrderedDict()
        self._checks: dict[bytes, _Check] = {}

    async def compile(
        self, model: str, constraint: Constraint, after: Sequence[int] = (), client: str = ""
    ) -> Grammar:
        """The grammar that workers are to follow.

        model: the text folder of the model. after: ids of the tokens after which it begins to hold.
        client: whose turn at a check it takes.
        BadRequest, whose text names the constraint's field, if it cannot be followed; TooBusy if
        too many others are checked first.
        """
        key = _key(model, constraint)
        found = self._known(key)
        if found is None:
            found = await self._checked(key, model, constraint, client)
        if isinstance(found, str):
            raise BadRequest(f"{constraint.field}: {found}.")
        return replace(found, after=tuple(after))

    def _known(self, key: bytes) -> Grammar | str | None:
        found = self._kept.get(key)
        if found is not None:
            self._kept.move_to_end(key)
            return found
        until_s, reason = self._expensive.get(key, (0.0, ""))
        return reason if self._clock() < until_s else None

    async def _checked(
        self, key: bytes, model: str, constraint: Constraint, client: str
    ) -> Grammar | str:
        """What a check finds, together with all who want the same."""
        check = self._checks.get(key)
        if check is None:
            running = self._check(key, model, constraint, client)
            check = _Check(asyncio.get_running_loop().create_task(running))
            self._checks[key] = check
        check.waiters += 1
        try:
            # Shielded: who asked first may go away, others wait for the same.
            return await asyncio.shield(check.task)
        except WaitTimeout:
            wait = {"Retry-After": str(RETRY_AFTER_S)}
            told = f"{constraint.field}: too many grammars are being compiled."
            raise TooBusy(told, None, wait) from None
        finally:
            check.waiters -= 1
            if not check.waiters and not check.has_begun:
                self._forget(key, check)
                check.task.cancel()

    def _forget(self, key: bytes, check: _Check) -> None:
        if self._checks.get(key) is check:
            del self._checks[key]

    async def _check(
        self, key: bytes, model: str, constraint: Constraint, client: str
    ) -> Grammar | str:
        """The grammar, or why there is none. WaitTimeout if no checker was free for it."""
        check = self._checks[key]
        try:
            async with self._turns.acquire(client):
                check.has_begun = True
                return await self._run(key, model, constraint)
        finally:
            self._forget(key, check)

    async def _run(self, key: bytes, model: str, constraint: Constraint) -> Grammar | str:
        try:
            text = await self._checkers.check(model, constraint)
        except CheckTooExpensive as error:
            return self._keep_expensive(key, str(error))
        except CheckFailed as error:
            return self._keep(key, str(error).rstrip("."))
        return self._keep(key, Grammar(constraint.kind, text))

    def _keep_expensive(self, key: bytes, reason: str) -> str:
        self._expensive.pop(key, None)
        self._expensive[key] = (self._clock() + TOO_EXPENSIVE_TTL_S, reason)
        if len(self._expensive) > MAX_CACHED_TOO_EXPENSIVE:
            self._expensive.popitem(last=False)
        return reason

    def _keep(self, key: bytes, found: Grammar | str) -> Grammar | str:
        self._kept[key] = found
        self._kept_chars += _size(found)
        while len(self._kept) > MAX_CACHED_GRAMMARS or self._kept_chars > MAX_CACHED_CHARS:
            self._kept_chars -= _size(self._kept.popitem(last=False)[1])
        return found


def _key(model: str, constraint: Constraint) -> bytes:
    """Equal for equal constraints, whichever field they came in."""
    described = repr((model, *astuple(replace(constraint, field=""))))
    return hashlib.blake2b(described.encode("utf-8", "surrogatepass"), digest_size=24).digest()


def _size(found: Grammar | str) -> int:
    return len(found if isinstance(found, str) else found.text)
