"""The frontend's side of one decoder process."""

import os
import socket
import subprocess
import sys

from headrace.frontend.audio.framing import receive_answer, send_order
from headrace.frontend.audio.messages import DecoderAnswer, DecoderOrder, DecoderReady
from headrace.protocol.codec import DecodeError

_MODULE = "headrace.frontend.audio.decoder"
# Libraries would start a thread for each core, for work of milliseconds.
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


class DecoderDied(Exception):
    """The process has ended before it answered."""


class DecoderProcess:
    """A process that decodes one file at a time, or waits for one."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair()
        with theirs:
            # From the thread of the event loop, with which the process must end.
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", _MODULE, "--parent-pid", str(os.getpid())],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                start_new_session=True,
                env={**os.environ, **_ONE_THREAD},
            )
        self._socket.setblocking(False)
        self._is_ready = False
        self._is_asked = False

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_reusable(self) -> bool:
        """Whether it lives and owes no answer."""
        return not self._is_asked and self._process.poll() is None

    async def ready(self) -> None:
        """Wait until it has started. Raises DecoderDied if it does not."""
        if not self._is_ready:
            self._is_asked = True
            if not isinstance(await self._answer(), DecoderReady):
                raise DecoderDied
            self._is_ready = True

    async def ask(self, order: DecoderOrder, descriptor: int | None = None) -> DecoderAnswer:
        """Return the answer to an order. Raises DecoderDied if there is none."""
        self._is_asked = True
        try:
            send_order(self._socket, order, descriptor)
        except OSError as error:
            raise DecoderDied from error
        return await self._answer()

    async def _answer(self) -> DecoderAnswer:
        try:
            answer = await receive_answer(self._socket)
        except (EOFError, OSError, DecodeError) as error:
            raise DecoderDied from error
        self._is_asked = False
        return answer

    def end(self) -> None:
        """Kill the process. A task that waits for its answer sees its death."""
        self._process.kill()

    def close(self) -> None:
        """Kill the process, which no task waits for."""
        self.end()
        self._socket.close()
        self._process.wait()
