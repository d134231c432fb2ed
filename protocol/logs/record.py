"""The records of the log: whatever their texts hold, they are one line each, without secrets.

Made by `logging` itself for every logger, so that handlers and formatters of an operator's own
configuration get the same safe texts.
"""

import logging
from contextvars import ContextVar
from typing import Any

from headrace.protocol.logs.safe_text import exception_lines, one_line

_current: ContextVar["LoggedRequest | None"] = ContextVar("headrace_logged_request", default=None)


class LoggedRequest:
    """The HTTP request whose records the current task, and tasks that it starts, log."""

    def __init__(self, request_id: str) -> None:
        self.request_id: str | None = request_id
        _current.set(self)

    def end(self) -> None:
        """Let records of tasks that go on name no request."""
        self.request_id = None


class SafeRecord(logging.LogRecord):
    """A record with the process's name in the pool and the id of the HTTP request."""

    process_id = ""  # of this process: "frontend-0.0"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.processName = self.process_id
        current = _current.get()
        self.request_id = None if current is None else current.request_id
        self.is_shown: bool | None = None  # not decided yet, see FloodFilter
        self.addition = ""
        # Formatters take this text instead of making one.
        if self.exc_info and self.exc_info[1] is not None:
            self.exc_text = exception_lines(self.exc_info[1])

    def getMessage(self) -> str:
        """Return the message as one line."""
        try:
            text = super().getMessage()
        except Exception:  # its arguments do not fit, or one of them cannot be shown
            text = f"{self.msg} (with arguments that cannot be shown)"
        return one_line(text) + self.addition
