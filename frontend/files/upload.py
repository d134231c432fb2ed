"""Receive a file of a multipart request: its bytes go to the disk as they come.

Quart and Werkzeug parse the request. Their own way of taking files holds them in memory or in a
folder for temporary files; here each goes where it will stay, and is counted meanwhile.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from io import BufferedRandom, FileIO
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

from hypercorn.typing import ASGIReceiveCallable
from quart import Request, request
from quart.asgi import ASGIHTTPConnection
from quart.formparser import FormDataParser

from headrace.frontend.errors import (
    BadRequest,
    BodyTooLarge,
    InvalidBody,
    RequestTimeout,
    UnsupportedMediaType,
    shortened,
)
from headrace.frontend.files.folder import FileFolder
from headrace.frontend.http.body import PatientRequest, RequestBody
from headrace.frontend.middleware.asgi import CONTINUE_KEY, ASGIScope
from headrace.frontend.process.patience import Patience

ROUTE = "/v1/files"
# What the request holds besides the file: fields, boundaries and headers.
OVERHEAD_BYTES = 64 * 1024
MAX_PARTS = 16
MAX_FIELD_BYTES = 16 * 1024
MAX_FILENAME_CHARS = 255
# Bytes that have been received and not yet parsed, and those that the parser may keep. A client
# (or a test) may send more in one piece.
MAX_BUFFERED_BYTES, MAX_PARSER_BYTES = 1024 * 1024, 64 * 1024 * 1024
# The longest time that an upload may take.
TIMEOUT_S = 3600.0


class Upload(NamedTuple):
    """A received file, at its path until it is moved or removed, and the other fields."""

    path: Path
    filename: str
    fields: dict[str, str]


class ReceivedForm(NamedTuple):
    """A form with its file, which is complete; fields in their order, with all their values."""

    file: BufferedRandom
    filename: str
    fields: list[tuple[str, str]]


class UploadBody(RequestBody):
    """A body that holds few bytes at a time: no more is received before these are read."""

    def __init__(self, *sizes: int | None) -> None:
        super().__init__(*sizes)
        self._room = asyncio.Event()
        self._room.set()
        self._is_discarded = False

    def append(self, data: bytes) -> None:
        if self._is_discarded:
            return
        super().append(data)
        if len(self._data) >= MAX_BUFFERED_BYTES and self._must_raise is None:
            self._room.clear()

    async def __anext__(self) -> bytes:
        try:
            return await super().__anext__()
        finally:
            self._room.set()

    async def wait_for_room(self) -> None:
        """Wait until more may be received."""
        await self._room.wait()

    def discard(self) -> None:
        """Drop what comes from now on: the answer is known."""
        self._is_discarded = True
        self._data.clear()
        self._room.set()


class UploadConnection(ASGIHTTPConnection):
    """The connection of a request; one with an upload receives no faster than it is read."""

    async def handle_messages(self, request: Request, receive: ASGIReceiveCallable) -> None:
        body = request.body
        if not isinstance(body, UploadBody):
            await super().handle_messages(request, receive)
            return
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            if message["type"] == "http.request":
                body.append(message["body"])
                if not message["more_body"]:
                    body.set_complete()
                await body.wait_for_room()


def check_length() -> None:
    """Raise RequestEntityTooLarge if the current request declares too large a body."""
    if isinstance(request.body, RequestBody):
        request.body.check_length()


def discard_body() -> None:
    """Drop the rest of the current request's body."""
    if isinstance(request.body, UploadBody):
        request.body.discard()


def request_class(
    max_file_bytes: Mapping[str, int], patience: Patience | None = None
) -> type[Request]:
    """Return the class of requests; on routes of uploads a body may have the size of a file.

    max_file_bytes: by these routes. patience: how long a body is waited for; None: without end.
    """

    class RequestWithUploads(PatientRequest):
        def __init__(self, method: str, scheme: str, path: str, *rest: Any, **named: Any) -> None:
            if method == "POST" and path in max_file_bytes:
                named["max_content_length"] = max_file_bytes[path] + OVERHEAD_BYTES
                self.body_class = UploadBody
            super().__init__(method, scheme, path, *rest, **named)
            body = cast(RequestBody, self.body)
            body.patience = patience
            body.say_continue = cast(ASGIScope, self.scope).get("state", {}).get(CONTINUE_KEY)

    return RequestWithUploads


@contextlib.asynccontextmanager
async def receive_upload(
    folder: FileFolder, tenant: str, max_file_bytes: int
) -> AsyncIterator[Upload]:
    """Receive the file of the current request; it is removed at the end, if it is still there.

    Raises ApiError if there is not exactly one file, called `file`, or if it is too large.
    """
    path = folder.new_upload(tenant)
    try:
        async with receive_form(lambda: path.open("xb+", buffering=0), max_file_bytes) as form:
            fields = {shortened(name): value for name, value in reversed(form.fields)}
            yield Upload(path, form.filename, fields)
    finally:
        path.unlink(missing_ok=True)


@contextlib.asynccontextmanager
async def receive_form(
    new_file: Callable[[], FileIO],
    max_file_bytes: int,
    max_parts: int = MAX_PARTS,
    max_field_bytes: int = MAX_FIELD_BYTES,
) -> AsyncIterator[ReceivedForm]:
    """Receive the form of the current request, with its file; that is closed at the end.

    new_file: makes the file, unbuffered. max_field_bytes: of all fields together.
    Raises ApiError if there is not exactly one file, called `file`, or if it is too large.
    """
    if request.mimetype != "multipart/form-data":
        raise UnsupportedMediaType("The Content-Type must be multipart/form-data.")
    counted: list[_CountedFile] = []

    def open_file(*_: object) -> IO[bytes]:
        if counted:
            raise BadRequest("file: there must be one file only.", "file")
        counted.append(_CountedFile(new_file(), max_file_bytes))
        return cast(IO[bytes], counted[0])

    parser = FormDataParser(
        max_content_length=MAX_PARSER_BYTES,
        max_form_memory_size=max_field_bytes,
        max_form_parts=max_parts,
        stream_factory=open_file,
    )
    try:
        try:
            async with asyncio.timeout(TIMEOUT_S):
                form, found = await parser.parse(
                    request.body, request.mimetype, request.content_length, request.mimetype_params
                )
        except TimeoutError as error:
            raise RequestTimeout("The upload took too long.") from error
        given = found.get("file")
        if given is None or len(found) != 1:
            raise InvalidBody("body.file: there must be a part of this name, a file.", "body.file")
        counted[0].flush()
        yield ReceivedForm(counted[0], _filename(given.filename), list(form.items(multi=True)))
    finally:
        for each in counted:
            with contextlib.suppress(OSError):  # a full disk may also refuse what was not written
                each.close()


class _CountedFile(BufferedRandom):
    """A new file that takes at most so many bytes."""

    def __init__(self, file: FileIO, max_bytes: int) -> None:
        super().__init__(file)
        self._max_bytes, self._written = max_bytes, 0

    def write(self, data: Any) -> int:
        self._written += len(data)
        if self._written > self._max_bytes:
            raise BodyTooLarge(f"file: more than {self._max_bytes} bytes.", "file")
        return super().write(data)


def _filename(given: str | None) -> str:
    """Return a client's name of a file for the database; it never becomes a path."""
    name = (given or "file").replace("\x00", "").encode("utf-8", "replace").decode()
    return name[:MAX_FILENAME_CHARS] or "file"
