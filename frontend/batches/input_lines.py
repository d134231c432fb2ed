"""Read the lines of a batch's input, a few at a time, and check them."""

import hashlib
import json
from collections.abc import Callable, Container
from pathlib import Path
from typing import Any, NamedTuple

from headrace.frontend.errors import ApiError, shortened
from headrace.frontend.http.parsing import parse_object

# Requests in a batch.
MAX_REQUESTS = 50_000
# Lines of the file, empty ones included.
MAX_LINES = 1_000_000
MAX_CUSTOM_ID_CHARS = 512
# What a line holds besides its body.
OVERHEAD_BYTES = 16 * 1024
# Errors that a batch tells; then its input is not read any further.
MAX_ERRORS = 100
# How much is read and parsed at once, between which the frontend's streams have their turn.
_PIECE_LINES, _PIECE_BYTES = 64, 256 * 1024


class BatchLine(NamedTuple):
    """A request of a batch. number: its line in the file, from 1. size: that line's bytes."""

    number: int
    custom_id: str
    body: dict[str, Any]
    size: int


class LineError(Exception):
    """A line is not a request that its batch can run."""

    def __init__(self, code: str, message: str, line: int, param: str | None = None) -> None:
        super().__init__(message)
        self.code, self.message, self.line, self.param = code, message, line, param

    def body(self) -> dict[str, Any]:
        """Return the error as a batch shows it."""
        return {
            "code": self.code,
            "line": self.line or None,
            "message": self.message,
            "param": self.param,
        }


class LineReader:
    """Reads an input from its beginning. endpoint: of all its lines.

    max_body_bytes: the size of a line's body. Methods block; one thread at a time may call them.
    """

    def __init__(self, path: Path, endpoint: str, max_body_bytes: int) -> None:
        """Open the input. Raises OSError if that is impossible."""
        self._file = path.open("rb")
        self._endpoint, self._max_bytes = endpoint, max_body_bytes + OVERHEAD_BYTES
        self._number = 0

    def close(self) -> None:
        """Close the input."""
        self._file.close()

    def read(self, known: Container[int] = ()) -> list[BatchLine | LineError]:
        """Return the next lines; none at the end of the file. known: numbers to leave out."""
        found: list[BatchLine | LineError] = []
        lines = size = 0
        while lines < _PIECE_LINES or not found:
            if size >= _PIECE_BYTES and found:
                break
            line = self._file.readline(self._max_bytes + 1)
            if not line:
                break
            self._number += 1
            lines, size = lines + 1, size + len(line)
            if self._number > MAX_LINES:
                found.append(self._too_many())
                self._file.seek(0, 2)
                break
            if len(line) > self._max_bytes and not line.endswith(b"\n"):
                size += self._skip_rest()
                found.append(self._error("invalid_json_line", "This line is too long."))
            elif line.strip() and self._number not in known:
                found.append(self._parsed(line))
        return found

    def _skip_rest(self) -> int:
        """Skip the rest of a line; return how many bytes that were."""
        size = 0
        while part := self._file.readline(1024 * 1024):
            size += len(part)
            if part.endswith(b"\n"):
                break
        return size

    def _parsed(self, line: bytes) -> BatchLine | LineError:
        try:
            request = parse_object(line)
        except ApiError as error:
            reason = error.message.replace("The body", "The line")
            return self._error("invalid_json_line", f"This line is not valid JSON: {reason}")
        return self._check(request, len(line))

    def _check(self, request: dict[str, Any], size: int) -> BatchLine | LineError:
        custom_id, body = request.get("custom_id"), request.get("body")
        for name in ("custom_id", "method", "url", "body"):
            if request.get(name) is None:
                return self._error("missing_required_parameter", f"{name}: is missing.", name)
        if not isinstance(custom_id, str) or not 0 < len(custom_id) <= MAX_CUSTOM_ID_CHARS:
            message = f"custom_id: must be a string of 1 to {MAX_CUSTOM_ID_CHARS} characters."
            return self._error("invalid_request", message, "custom_id")
        if request["method"] != "POST":
            return self._error("invalid_method", "method: must be POST.", "method")
        if request["url"] != self._endpoint:
            message = f"url: must be the batch's endpoint, {self._endpoint}."
            return self._error("url_mismatch", message, "url")
        if not isinstance(body, dict):
            return self._error("invalid_request", "body: must be an object.", "body")
        return BatchLine(self._number, custom_id, body, size)

    def _too_many(self) -> LineError:
        return self._error("too_many_tasks", f"The file has more than {MAX_LINES} lines.")

    def _error(self, code: str, message: str, param: str | None = None) -> LineError:
        return LineError(code, message, self._number, param)


class InputCheck:
    """Checks all lines of an input.

    model_name: returns the name of the model of a line's body; raises ApiError if it is not served.
    """

    def __init__(self, model_name: Callable[[Any], str]) -> None:
        self._model_name = model_name
        self._seen: set[bytes] = set()
        self._models: dict[str, None] = {}
        self.total = 0
        self.errors: list[LineError] = []

    @property
    def models(self) -> list[str]:
        """The names of the models, in the order of their first lines."""
        return list(self._models)

    @property
    def is_over(self) -> bool:
        """Whether so much is wrong that the rest need not be read."""
        return len(self.errors) >= MAX_ERRORS or self.total > MAX_REQUESTS

    def add(self, lines: list[BatchLine | LineError]) -> None:
        """Check more lines."""
        for line in lines:
            if self.is_over:
                return
            error = line if isinstance(line, LineError) else self._check(line)
            if error is not None:
                self.errors.append(error)

    def end(self) -> None:
        """Check what only the whole input shows."""
        if self.total > MAX_REQUESTS:
            message = f"The file holds more than {MAX_REQUESTS} requests."
            self.errors.append(LineError("too_many_tasks", message, 0))
        elif not self.total and not self.errors:
            self.errors.append(LineError("empty_file", "The file holds no requests.", 0))

    def _check(self, line: BatchLine) -> LineError | None:
        self.total += 1
        digest = hashlib.blake2b(line.custom_id.encode(), digest_size=16).digest()
        if digest in self._seen:
            message = f"custom_id: another line has {shortened(line.custom_id)!r}, too."
            return LineError("duplicate_custom_id", message, line.number, "custom_id")
        self._seen.add(digest)
        try:
            self._models[self._model_name(line.body.get("model"))] = None
        except ApiError as error:
            return LineError("model_not_found", error.message, line.number, "body.model")
        return None


def encode_body(body: dict[str, Any]) -> bytes:
    """Return a body as its route reads it."""
    return json.dumps(body, separators=(",", ":")).encode()
