"""Collect the numbers of a request's texts, each of which is a request to a worker."""

import asyncio
import time
from collections.abc import Sequence
from functools import partial

from headrace.frontend.errors import FAILURE, ApiError, DeadlineExceeded, InternalError, error_of
from headrace.frontend.generation.awaited_stream import notifying
from headrace.frontend.metrics import RequestObserver
from headrace.frontend.pool.interface import OutputStream
from headrace.protocol.to_frontend import Pooled


class Encoding:
    """The texts of one request on their way.

    `close` must always be called in the end; it cancels what is not finished.
    fields: of the request, that held the texts.
    deadline: on the clock of `time.monotonic`; None: no deadline.
    """

    def __init__(
        self,
        streams: Sequence[OutputStream],
        observers: Sequence[RequestObserver],
        prompt_tokens: Sequence[int],
        fields: Sequence[str],
        deadline: float | None = None,
    ) -> None:
        self._streams = [notifying(stream) for stream in streams]
        self._observers, self._prompt_tokens = observers, prompt_tokens
        self._fields, self._deadline = fields, deadline
        self._found: dict[int, Pooled] = {}
        self._begun: set[int] = set()  # texts that a worker has run
        self._finished = [False] * len(streams)
        self._done: asyncio.Future[None] | None = None
        self._failure: Exception | None = None

    async def collect(self) -> list[Pooled]:
        """Run all texts and return their numbers, in order.

        Raises ApiError or PoolError if one of them fails; the request has then failed as a whole.
        """
        self._done = asyncio.get_running_loop().create_future()
        for index, stream in enumerate(self._streams):
            stream.listen(partial(self._on_output, index))
        self._end_if_over()
        left_s = None if self._deadline is None else self._deadline - time.monotonic()
        try:
            async with asyncio.timeout(left_s):
                await self._done
        except TimeoutError:
            self._fail(DeadlineExceeded())
        if self._failure is not None:
            raise self._failure
        return [self._found[index] for index in range(len(self._streams))]

    def used_tokens(self, at_end: bool) -> int | None:
        """Return the tokens of texts that were run; None while that is not known."""
        if not (at_end or all(self._finished)):
            return None
        return sum(self._prompt_tokens[index] for index in self._begun)

    def interrupt(self, error: ApiError) -> None:
        """Cancel all texts, and raise this error to the reader."""
        self._fail(error)

    def close(self) -> None:
        """Cancel what is not finished. Has no effect after the end."""
        for index, stream in enumerate(self._streams):
            if not self._finished[index]:
                stream.cancel()
                self._finish(index, "abort")

    def _on_output(self, index: int) -> None:
        if self._finished[index]:
            return
        try:
            output = self._streams[index].ready()
        except StopAsyncIteration:
            self._fail(InternalError(FAILURE))
            return
        except Exception as error:
            self._fail(error)
            return
        if output is None or output.finish_reason is None:
            return
        if (failure := error_of(output)) is not None:
            self._fail(_naming(failure, self._fields[index]))
            return
        self._begun.add(index)
        self._observers[index].output(0, output.admission)
        if output.pooled is None:
            self._fail(InternalError(FAILURE))
            return
        self._found[index] = output.pooled
        self._finish(index, "stop")
        self._end_if_over()

    def _fail(self, error: Exception) -> None:
        """End the request with the first failure."""
        if self._failure is None:
            self._failure = error
        for index, stream in enumerate(self._streams):
            if not self._finished[index]:
                self._finish(index, "error")
                stream.cancel()
        self._wake()

    def _finish(self, index: int, reason: str) -> None:
        self._finished[index] = True
        self._observers[index].finish(reason)

    def _end_if_over(self) -> None:
        if all(self._finished):
            self._wake()

    def _wake(self) -> None:
        if self._done is not None and not self._done.done():
            self._done.set_result(None)


def _naming(error: ApiError, field: str) -> ApiError:
    """Return an error of a worker, which knows no fields, with the field if it is about a text."""
    reason = error.message.removeprefix("input: ").removeprefix("prompt_token_ids: ")
    return error if reason == error.message else error.renamed(f"{field}: {reason}", field)
