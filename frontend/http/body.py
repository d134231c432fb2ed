"""A request's body: how long it is waited for, and when its client is told to send it.

A client that asks with `Expect: 100-continue` is told to send its body when that is first waited
for: a request that is rejected by its path, its key or its headers never sends it.
"""

import asyncio
import contextlib
import time
from collections.abc import Generator
from typing import Any

from quart import Request
from quart.wrappers.request import Body

from headrace.frontend.errors import RequestTimeout
from headrace.frontend.middleware.asgi import Continue
from headrace.frontend.process.patience import Patience


class RequestBody(Body):
    """A body that is not waited for without end. Waiting raises RequestTimeout.

    patience: None: wait without end. say_continue: see CONTINUE_KEY.
    """

    patience: Patience | None = None
    say_continue: Continue | None = None

    def __init__(self, *sizes: int | None) -> None:
        super().__init__(*sizes)
        self._received, self._waited_s = 0, 0.0

    def append(self, data: bytes) -> None:
        self._received += len(data)
        super().append(data)

    def check_length(self) -> None:
        """Raise RequestEntityTooLarge if the body is known to be too large."""
        if self._must_raise is not None:
            raise self._must_raise

    def __await__(self) -> Generator[Any, None, Any]:
        return self._whole().__await__()

    async def _whole(self) -> bytes:
        self.check_length()
        await self._wait_for(self._complete)
        self.check_length()
        return bytes(self._data)

    async def __anext__(self) -> bytes:
        if self._must_raise is None and not self._complete.is_set():
            await self._wait_for(self._has_data)
        return await super().__anext__()

    async def _wait_for(self, event: asyncio.Event) -> None:
        if event.is_set():
            return
        if self.say_continue is not None:
            await self.say_continue()
        while not event.is_set():
            begun_at, received = time.monotonic(), self._received
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._left_s()):
                    await event.wait()
            self._waited_s += time.monotonic() - begun_at
            if self.patience is not None and not self.patience.rate and self._received > received:
                self._waited_s = 0.0
            left_s = self._left_s()
            if not event.is_set() and left_s is not None and left_s <= 0:
                raise RequestTimeout("The request's body was sent too slowly.")

    def _left_s(self) -> float | None:
        if self.patience is None:
            return None
        return self.patience.left_s(self._waited_s, self._received)


class PatientRequest(Request):
    """A request whose body is waited for as its bounds say, and not by `asyncio.wait_for`, which
    in Python 3.11 may swallow the cancellation of a request whose client has gone."""

    body_class = RequestBody  # type: ignore[assignment]

    async def get_data(  # type: ignore[override]
        self, cache: bool = True, as_text: bool = False, parse_form_data: bool = False
    ) -> bytes | str:
        data: bytes = await self.body
        if not cache:
            self.body.clear()
        return data.decode() if as_text else data
