"""Clients: each asks for one thing after another and compares each answer with the right one."""

import asyncio
import itertools
import random
import time
from collections import Counter
from dataclasses import dataclass, field

from .answers import Outcome, Wrong
from .asking import Address, Broken, ErrorStatus, ask, look
from .blows import Struck
from .catalogue import Request
from .watch import POLL_S, Watch

# Only a request that hangs takes so long.
ANSWER_TIMEOUT_S = 150.0
PAUSE_S = 0.3
# The workers of a request may be lost three times; the fourth time it fails (500).
MOST_LOSSES = 4
_HANGS_UP = 0.1
# Requests that no frontend had accepted when the server had to stop are not answered.
_UNTAKEN_S = 1.0
# A roll takes no longer: it gives up when workers are missing.
_ROLL_S = 60.0


@dataclass
class Load:
    """findings: what must not be. counts: how many requests ended how."""

    address: Address
    answers: dict[str, tuple[Request, Outcome]]
    watch: Watch
    struck: Struck
    findings: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    found: asyncio.Event = field(default_factory=asyncio.Event)
    over: bool = False
    stopped_at: float = float("inf")

    async def client(self, seed: str) -> None:
        """Ask until the load is over, or something is found."""
        chance = random.Random(seed)
        while not self.over and not self.found.is_set():
            request, right = chance.choice(list(self.answers.values()))
            stream = chance.random() < 0.6
            if chance.random() < _HANGS_UP:
                await self._hang_up(request, stream, 1.5 * chance.random() ** 2)
            else:
                await self.answered(request, stream, right)

    async def onlooker(self) -> None:
        """Ask how the server is, again and again: it has to say, whatever has died."""
        paths = itertools.cycle(["/health", "/metrics", "/load", "/v1/models"])
        while not self.over and not self.found.is_set():
            path, began = next(paths), time.monotonic()
            try:
                async with asyncio.timeout(ANSWER_TIMEOUT_S):
                    await look(self.address, path)
                self.counts["looks"] += 1
            except (Broken, ErrorStatus, TimeoutError) as failure:
                if self._is_unready(path, failure):
                    self.counts["unready while one leaves"] += 1
                else:
                    await self._fail(path, failure, began)
            await asyncio.sleep(PAUSE_S)

    def _is_unready(self, path: str, failure: Exception) -> bool:
        """Whether this is what /health may say when others die while one is being replaced."""
        rolls = time.monotonic() - self.struck.rolled_at < _ROLL_S
        is_rejection = isinstance(failure, ErrorStatus) and failure.status == 503
        return path == "/health" and rolls and is_rejection

    async def _hang_up(self, request: Request, stream: bool, after_s: float) -> None:
        began = time.monotonic()
        try:
            async with asyncio.timeout(after_s):
                await ask(self.address, request, stream)
        except TimeoutError:
            self.counts["hung up"] += 1
        except (Broken, ErrorStatus, Wrong) as failure:
            await self._fail(_name(request, stream), failure, began)

    async def answered(self, request: Request, stream: bool, right: Outcome) -> None:
        """Ask again for as long as the failures are such as may be."""
        while not self.over:
            if await self._is_settled(request, stream, right):
                return
            await asyncio.sleep(PAUSE_S)

    async def _is_settled(self, request: Request, stream: bool, right: Outcome) -> bool:
        began = time.monotonic()
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                outcome = await ask(self.address, request, stream)
        except (Broken, ErrorStatus, Wrong, TimeoutError, KeyError, ValueError) as failure:
            await self._fail(_name(request, stream), failure, began)
            return False
        for difference in right.differences(outcome):
            self.find(_name(request, stream), difference)
        self.counts["right, streamed" if stream else "right"] += 1
        return True

    async def _fail(self, name: str, failure: Exception, began: float) -> None:
        now = time.monotonic()
        await asyncio.sleep(2 * POLL_S)  # who watches the processes may see a moment later
        excuse = self._excuse(failure, began, now)
        self.counts[excuse or "failed"] += 1
        if excuse is None:
            kind, after_s = type(failure).__name__, now - began
            self.find(name, f"{kind}: {failure} after {after_s:.2f} s")

    def _excuse(self, failure: Exception, began: float, now: float) -> str | None:
        """Why a request may fail in this way; None if it may not."""
        if isinstance(failure, Broken):
            if failure.port in self.struck.broken_ports:
                return "broken with its frontend"
            untaken = began > self.stopped_at - _UNTAKEN_S
            return "too late" if untaken else None
        if isinstance(failure, ErrorStatus) and failure.status == 503:
            if self.struck.nobody_knows(now):
                return "503 without a pool state"
            if began > self.stopped_at - _UNTAKEN_S:
                return "too late"
            return "503 without workers" if self.watch.was_out(began, now) else None
        lost_workers = "failed while they ran this request" in str(failure)
        if lost_workers and self.struck.losses(began, now) >= MOST_LOSSES:
            return "500 after four workers"
        return None

    def find(self, name: str, what: str) -> None:
        """Something is wrong: the run ends."""
        self.findings.append(f"{name}: {what}")
        self.found.set()


def _name(request: Request, stream: bool) -> str:
    return f"{request.name!r} ({'streamed' if stream else 'whole'})"


async def undisturbed(
    address: Address, requests: list[Request]
) -> dict[str, tuple[Request, Outcome]]:
    """The right answers, by name. AssertionError if it matters whether they are streamed."""
    whole, streamed = [
        await asyncio.gather(*(ask(address, request, stream) for request in requests))
        for stream in (False, True)
    ]
    for request, one, other in zip(requests, whole, streamed, strict=True):
        assert not one.differences(other), (request.name, one.differences(other))
    return {request.name: (request, one) for request, one in zip(requests, whole, strict=True)}
