"""Keep the results of a running batch on the disk, so that none is lost and none counts twice.

Each run of a batch (a new one begins when its owner has died) appends to a file of its own, one
line for each request that has ended, in the order of their ends:

    NUMBER OK INPUT CACHED OUTPUT REASONING LENGTH {"id": ...}

with the number of the request's line in the input, 1 or 0, tokens, and the length of the rest: a
line that was cut by a full disk, or the death of its writer, is none. A later run reads the files
of the earlier ones and leaves out what they hold. An owner that only seemed dead may still append
to its own file; when the files are joined, the first result of each request counts.
"""

import contextlib
import os
from collections.abc import Iterable, Iterator
from io import FileIO
from pathlib import Path
from typing import NamedTuple

from headrace.frontend.batches.batch import Progress
from headrace.frontend.files.folder import flush_folder


class LineResult(NamedTuple):
    """The result of a request. tokens: input, cached, output and reasoning. text: its JSON."""

    number: int
    ok: bool
    tokens: tuple[int, int, int, int]
    text: str

    @property
    def progress(self) -> Progress:
        """What this result adds to what is done of its batch."""
        return Progress(int(self.ok), int(not self.ok), *self.tokens)


class BatchJournal:
    """The results of one run. Methods block; one thread at a time may call them."""

    def __init__(self, folder: Path, run: int) -> None:
        self._folder, self._path = folder, folder / f"{run:06d}"
        self._file: FileIO | None = None
        self._is_torn = False  # the last line may not be complete

    def append(self, results: Iterable[LineResult]) -> None:
        """Append results; they are on the disk afterwards. Raises OSError if that is impossible."""
        if self._file is None:
            self._file = self._path.open("ab", buffering=0)
            flush_folder(self._folder)
        left = memoryview(b"".join([b"\n" * self._is_torn, *map(_encode, results)]))
        self._is_torn = True
        while left:
            left = left[self._file.write(left) or 0 :]
        os.fsync(self._file.fileno())
        self._is_torn = False

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def known(self) -> tuple[set[int], Progress]:
        """Return the numbers of all lines with a result, of all runs, and what they add up to."""
        numbers: set[int] = set()
        progress = Progress()
        for result in results(self._folder):
            numbers.add(result.number)
            progress += result.progress
        return numbers, progress


def results(folder: Path) -> Iterator[LineResult]:
    """Yield the results of all runs of a batch, one for each line of its input."""
    seen: set[int] = set()
    for path in sorted(folder.glob("[0-9]" * 6)):
        with path.open("rb") as file:
            for line in file:
                result = _decode(line)
                if result is not None and result.number not in seen:
                    seen.add(result.number)
                    yield result


def _encode(result: LineResult) -> bytes:
    # In JSON a newline can stand between values only.
    text = result.text.replace("\n", " ")
    tokens = " ".join(map(str, result.tokens))
    return f"{result.number} {int(result.ok)} {tokens} {len(text)} {text}\n".encode()


def _decode(line: bytes) -> LineResult | None:
    """Return the result of a line; None if its writer was killed while it wrote."""
    if not line.endswith(b"\n"):
        return None
    with contextlib.suppress(ValueError):
        *numbers, text = line.decode().rstrip("\n").split(" ", 7)
        number, ok, *tokens, length = map(int, numbers)
        given, cached, made, reasoning = tokens
        if len(text) != length:
            return None
        return LineResult(number, bool(ok), (given, cached, made, reasoning), text)
    return None
