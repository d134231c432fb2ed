"""Listen to streams of outputs that can only be awaited."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable

from headrace.frontend.errors import FAILURE, InternalError
from headrace.frontend.pool.interface import NotifyingStream, OutputStream
from headrace.protocol.to_frontend import Output

# Outputs that are awaited ahead of their reader.
MAX_OUTPUTS_AHEAD = 64


def notifying(stream: OutputStream) -> NotifyingStream:
    """Return the stream, or one that awaits it, to be listened to."""
    return stream if isinstance(stream, NotifyingStream) else AwaitedStream(stream)


class AwaitedStream:
    """Awaits a stream in a task while it is listened to; implements NotifyingStream."""

    def __init__(self, stream: OutputStream) -> None:
        self._stream = stream
        self._outputs: deque[Output | Exception] = deque()
        self._has_room = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def __aiter__(self) -> AsyncIterator[Output]:
        return self._stream

    async def __anext__(self) -> Output:
        return await self._stream.__anext__()

    def listen(self, notify: Callable[[], None]) -> None:
        self._notify = notify
        self._task = asyncio.create_task(self._await_all())

    async def _await_all(self) -> None:
        is_last = False
        while not is_last:
            item: Output | Exception
            try:
                item = await self._stream.__anext__()
                is_last = item.finish_reason is not None
            except Exception as error:  # raised where the outputs are read
                item, is_last = error, True
            self._put(item)
            if len(self._outputs) >= MAX_OUTPUTS_AHEAD:
                self._has_room.clear()
                await self._has_room.wait()

    def _put(self, item: Output | Exception) -> None:
        self._outputs.append(item)
        self._notify()

    def ready(self) -> Output | None:
        if not self._outputs:
            return None
        item = self._outputs.popleft()
        self._has_room.set()
        if isinstance(item, Exception):
            raise item
        return item

    def cancel(self) -> None:
        self._stream.cancel()
        if self._task is not None and not self._task.done():
            self._task.cancel()
            self._put(InternalError(FAILURE))
