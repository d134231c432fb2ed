"""Take requests of a key within its limits: requests and tokens a minute, requests at once.

A request is counted when it comes, whatever becomes of it. Its tokens are reserved when it is
known what it asks for, and settled when it has ended. Bodies of batches count like any other
request but leave half of each limit a minute to others, and are not counted at once.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple

from headrace.frontend.errors import BadRequest, TooManyRequests
from headrace.frontend.rate_limits.meter import Level
from headrace.frontend.rate_limits.shared_meters import KeyUse, SharedMeters
from headrace.protocol.api_keys import ApiKey

LimitName = Literal["requests", "tokens", "concurrent_requests"]
# What a choice is assumed to generate at most, until it has ended: few texts are as long as they
# may be. What is above it is counted at the end.
RESERVED_TOKENS = 1024
# When to try again if too many requests run: nobody knows when one ends.
AT_ONCE_RETRY_S = 1.0


class RateLimited(TooManyRequests):
    """A key has reached a limit. The body is that of OpenAI's API."""

    code = "rate_limit_exceeded"

    def __init__(self, limit: LimitName, message: str, retry_after_s: float) -> None:
        seconds = max(1, math.ceil(retry_after_s))
        headers = {"Retry-After": str(seconds)}
        super().__init__(f"{message}; try again in {seconds} s.", headers=headers)
        self.limit = limit
        self.kind = "tokens" if limit == "tokens" else "requests"


class Levels(NamedTuple):
    """What is used of a key's limits; None: no limit."""

    requests: Level | None
    tokens: Level | None


@dataclass(frozen=True, slots=True)
class Demand:
    """The tokens that a request asks for.

    choices: of all its prompts. output_tokens: at most, of all choices together.
    is_bounded: whether the client has set that bound, rather than the model's context.
    before: the least of what the same HTTP request has asked for already, for other texts.
    field: that asks for them, if there is no output; None: the bound of the output does, if any.
    """

    prompt_tokens: int
    choices: int
    output_tokens: int
    is_bounded: bool
    before: int = 0
    field: str | None = None

    @property
    def param(self) -> str | None:
        """The field at fault if these tokens are too many."""
        return self.field or ("max_tokens" if self.is_bounded else None)

    @property
    def least(self) -> int:
        """The limit below which the request could never be run."""
        return (
            self.before
            + self.prompt_tokens
            + (self.output_tokens if self.is_bounded else self.choices)
        )

    @property
    def reserved(self) -> int:
        """The tokens that are reserved for it."""
        return self.prompt_tokens + min(self.output_tokens, RESERVED_TOKENS * self.choices)


class Slot:
    """A request that runs now. Several may hold it; it is free when all have released it."""

    def __init__(self, use: KeyUse | None = None) -> None:
        self._use, self._holders = use, 1

    def hold(self) -> "Slot":
        """Hold it, too."""
        self._holders += 1
        return self

    def release(self) -> None:
        """Stop holding it."""
        self._holders -= 1
        if not self._holders and self._use is not None:
            self._use.leave()


class Reservation:
    """Tokens that are reserved for a request.

    used: returns the tokens that were used; None if that is not known yet.
    """

    def __init__(self, use: KeyUse, limit: int, tokens: int, used: Callable[[bool], int | None]):
        self._use, self._limit, self._tokens, self._used = use, limit, tokens, used
        self._is_settled = False

    def settle(self, at_end: bool = True) -> None:
        """Count what was used in place of what was reserved, once.

        at_end: the request has ended; else nothing is done if it still runs.
        """
        used = None if self._is_settled else self._used(at_end)
        if used is None:
            return
        self._is_settled = True
        with self._use.locked():
            self._use.set_tokens(self._use.tokens(self._limit).add(used - self._tokens))


@dataclass(frozen=True, slots=True)
class RateLimits:
    """The limits of all keys.

    meters: what keys use.
    is_enforced: false for what a request that was taken does later: it is counted, not refused.
    """

    meters: SharedMeters
    is_enforced: bool = True

    @classmethod
    def in_folder(cls, folder: Path | None) -> "RateLimits":
        """Return limits that are shared through a folder; None: not shared."""
        return cls(SharedMeters(folder))

    def not_enforced(self) -> "RateLimits":
        """Return limits that count and refuse nothing."""
        return replace(self, is_enforced=False)

    def levels(self, key: ApiKey) -> Levels:
        """Return what is used of a key's limits."""
        limits = key.limits
        requests, tokens = limits.requests_per_minute, limits.tokens_per_minute
        if requests is None and tokens is None:
            return Levels(None, None)
        use = self.meters.of(key.name)
        return Levels(
            None if requests is None else use.requests(requests),
            None if tokens is None else use.tokens(tokens),
        )

    def admit(self, key: ApiKey, is_line: bool = False) -> Slot:
        """Take a request. Raises RateLimited.

        is_line: whether it is a line of a batch.
        """
        limits = key.limits
        if limits.requests_per_minute is None and limits.max_requests is None:
            return Slot()
        use = self.meters.of(key.name)
        with use.locked():
            level = None
            if limits.requests_per_minute is not None:
                level = self._with_request(use, limits.requests_per_minute, is_line)
            if is_line or limits.max_requests is None:
                slot = Slot()
            else:
                self._check_at_once(use, limits.max_requests)
                use.enter()
                slot = Slot(use)
            if level is not None:
                use.set_requests(level)
        return slot

    def _with_request(self, use: KeyUse, limit: int, is_line: bool) -> Level:
        level, spare = use.requests(limit), limit // 2 if is_line else 0
        if self.is_enforced and not level.has_room(1, spare):
            message = f"This key's limit of {limit} requests a minute is reached"
            raise RateLimited("requests", message, level.wait_s(1, spare))
        return level.add(1)

    def _check_at_once(self, use: KeyUse, limit: int) -> None:
        if self.is_enforced and use.at_once(limit) >= limit:
            message = f"This key's limit of {limit} requests at once is reached"
            raise RateLimited("concurrent_requests", message, AT_ONCE_RETRY_S)

    def enter(self, key: ApiKey) -> Slot:
        """Count a request that runs without having been taken here."""
        if key.limits.max_requests is None:
            return Slot()
        use = self.meters.of(key.name)
        with use.locked():
            use.enter()
        return Slot(use)

    def reserve(
        self,
        key: ApiKey,
        demand: Demand,
        used: Callable[[bool], int | None],
        is_line: bool = False,
    ) -> Reservation | None:
        """Reserve the tokens of a request; None if there is no limit.

        used: see Reservation.
        Raises RateLimited, or BadRequest if the request is larger than the limit.
        """
        limit = key.limits.tokens_per_minute
        if limit is None:
            return None
        if self.is_enforced and demand.least > limit:
            raise BadRequest(_too_large(demand, limit), demand.param)
        tokens, spare = min(demand.reserved, limit), limit // 2 if is_line else 0
        use = self.meters.of(key.name)
        with use.locked():
            level = use.tokens(limit)
            if self.is_enforced and not level.has_room(tokens, spare):
                message = f"This key's limit of {limit} tokens a minute leaves no room for {tokens}"
                raise RateLimited("tokens", message, level.wait_s(tokens, spare))
            use.set_tokens(level.add(tokens))
        return Reservation(use, limit, tokens, used)


def _too_large(demand: Demand, limit: int) -> str:
    asked = f"{demand.before + demand.prompt_tokens} tokens of prompts"
    if demand.is_bounded:
        asked += f" and up to {demand.output_tokens} of output"
    return (
        f"The request has {asked}: it can never run, since this key's limit is {limit} tokens a"
        " minute. Send less, or ask for less."
    )
