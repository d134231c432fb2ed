"""Grammars of requests: checked once, kept while there is room, shared by who asks meanwhile."""

import asyncio
import atexit
import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import astuple, replace

from frontend.errors import BadRequest, TooBusy
from frontend.structured.checkers import Checkers, CheckFailed, CheckTooExpensive
from frontend.structured.constraint import Constraint
from protocol.grammar import Grammar

KEPT_CHARS = 16 * 1024 * 1024
KEPT_GRAMMARS = 2048
MAX_WAITING = 256

# One set of processes for all that this frontend serves.
_CHECKERS = Checkers()
atexit.register(_CHECKERS.close)


class Grammars:
    """checkers: where constraints are compiled."""

    def __init__(self, checkers: Checkers = _CHECKERS) -> None:
        self._checkers = checkers
        self._kept: OrderedDict[bytes, Grammar | str] = OrderedDict()
        self._kept_chars = 0
        self._running: dict[bytes, asyncio.Task[Grammar | str]] = {}

    async def compile(
        self, model: str, constraint: Constraint, after: Sequence[int] = ()
    ) -> Grammar:
        """The grammar that workers are to follow.

        model: the text folder of the model. after: ids of the tokens after which it begins to hold.
        BadRequest, whose text names the constraint's field, if it cannot be followed; TooBusy if
        too many others wait.
        """
        key = _key(model, constraint)
        found = self._kept.get(key)
        if found is None:
            # Shielded: who asked first may go away, others wait for the same.
            found = await asyncio.shield(self._task(key, model, constraint))
        else:
            self._kept.move_to_end(key)
        if isinstance(found, str):
            raise BadRequest(f"{constraint.field}: {found}.")
        return replace(found, after=tuple(after))

    def _task(
        self, key: bytes, model: str, constraint: Constraint
    ) -> "asyncio.Task[Grammar | str]":
        task = self._running.get(key)
        if task is None:
            if len(self._running) >= MAX_WAITING:
                raise TooBusy("Too many grammars are being compiled.", None, {"Retry-After": "1"})
            task = asyncio.get_running_loop().create_task(self._check(key, model, constraint))
            self._running[key] = task
            task.add_done_callback(lambda _: self._running.pop(key, None))
        return task

    async def _check(self, key: bytes, model: str, constraint: Constraint) -> Grammar | str:
        """The grammar, or why there is none; what may be a busy machine's fault is not kept."""
        try:
            text = await self._checkers.check(model, constraint)
        except CheckTooExpensive as error:
            return str(error)
        except CheckFailed as error:
            return self._keep(key, str(error).rstrip("."))
        return self._keep(key, Grammar(constraint.kind, text))

    def _keep(self, key: bytes, found: Grammar | str) -> Grammar | str:
        self._kept[key] = found
        self._kept_chars += _size(found)
        while len(self._kept) > KEPT_GRAMMARS or self._kept_chars > KEPT_CHARS:
            self._kept_chars -= _size(self._kept.popitem(last=False)[1])
        return found


def _key(model: str, constraint: Constraint) -> bytes:
    """Equal for equal constraints, whichever field they came in."""
    described = repr((model, *astuple(replace(constraint, field=""))))
    return hashlib.blake2b(described.encode("utf-8", "surrogatepass"), digest_size=24).digest()


def _size(found: Grammar | str) -> int:
    return len(found if isinstance(found, str) else found.text)
