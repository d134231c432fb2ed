"""Errors of workers.

WorkerError
├── RejectedByEngine   one request cannot run; the engine continues
├── AdapterError       an adapter cannot be added or removed; the engine continues
├── ModelUnsupported   the model cannot be served; the worker does not start
├── EngineFailed       an engine whose step has raised is used again
└── CallFailed         an admin call cannot be executed; the worker continues
"""

import errno

# What the system refuses for now: another process may end, or give something back.
_PASSING = frozenset(
    {errno.ENOMEM, errno.EAGAIN, errno.EMFILE, errno.ENFILE, errno.ENOSPC, errno.EDQUOT}
    | {errno.EBUSY, errno.EINTR, errno.EIO, errno.ESTALE, errno.ETIMEDOUT}
)
_DEVICE_IS_FULL = "OutOfMemoryError"  # torch's, which is not imported here
_MAX_LINE = 500  # characters


def named_in_one_line(error: BaseException) -> str:
    """Return the type and the first sentence of an exception that a library has raised."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = lines[:1]
    if told and told[0].endswith(":"):  # what it announces is in the next
        told = lines[:2]
    first = " ".join(told)[:_MAX_LINE]
    return f"{type(error).__name__}: {first}" if first else type(error).__name__


def may_pass(error: BaseException) -> bool:
    """Return whether the same start may succeed later, with the same files and options."""
    if isinstance(error, OSError):
        return error.errno in _PASSING
    return any(each.__name__ == _DEVICE_IS_FULL for each in type(error).__mro__)


class WorkerError(Exception):
    """A failure with a one-line text."""


class RejectedByEngine(WorkerError):
    """The engine rejects a request. `reason` is fit to be shown to a client.

    retry_elsewhere: whether another worker of the model may accept it.
    """

    def __init__(self, reason: str, retry_elsewhere: bool) -> None:
        super().__init__(reason)
        self.reason = reason
        self.retry_elsewhere = retry_elsewhere


class AdapterError(WorkerError):
    """An adapter cannot be added or removed. `reason` is one line, fit to be shown to a client."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class ModelUnsupported(WorkerError):
    """The model cannot be served as configured. `reason` is one line for the operator."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class EngineFailed(WorkerError):
    """A step has raised: the engine's state is unknown, and it must not run again."""


class CallFailed(WorkerError):
    """An admin call has failed. The text is fit to be shown to an operator."""
