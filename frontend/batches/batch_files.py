"""Join the results of a batch to its output file and its error file."""

from pathlib import Path
from typing import BinaryIO, NamedTuple

from headrace.frontend.batches.batch import Progress, StoredBatch
from headrace.frontend.batches.input_lines import BatchLine, LineError, LineReader
from headrace.frontend.batches.journal import LineResult, results
from headrace.frontend.batches.results import not_run, unreadable
from headrace.frontend.files.folder import FileFolder


class Unfinished(NamedTuple):
    """What is said of lines without a result. code: one of OpenAI's."""

    code: str
    message: str


class JoinedFiles(NamedTuple):
    """The files of a batch that has ended, where uploads lie; None if they would be empty."""

    output: Path | None
    errors: Path | None
    progress: Progress


def join_results(
    folder: FileFolder, batch: StoredBatch, unfinished: Unfinished | None, max_body_bytes: int
) -> JoinedFiles:
    """Write the output and the errors of all lines, each once. Blocks.

    unfinished: None if lines without a result have no line in either file.
    """
    batch_folder = folder.batch_path(batch.batch_id)
    paths = folder.new_upload(batch.tenant), folder.new_upload(batch.tenant)
    progress, seen = Progress(), set[int]()
    with paths[0].open("wb") as output, paths[1].open("wb") as errors:
        for result in results(batch_folder):
            seen.add(result.number)
            progress += result.progress
            _write(output if result.ok else errors, result)
        if unfinished is not None:
            reader = LineReader(batch_folder / "input", batch.endpoint, max_body_bytes)
            progress += _add_unfinished(errors, batch, reader, seen, unfinished)
    return JoinedFiles(_kept(paths[0]), _kept(paths[1]), progress)


def _kept(path: Path) -> Path | None:
    """Return a path; None if its file is empty, which is removed."""
    if path.stat().st_size:
        return path
    path.unlink()
    return None


def _add_unfinished(
    errors: BinaryIO,
    batch: StoredBatch,
    reader: LineReader,
    seen: set[int],
    unfinished: Unfinished,
) -> Progress:
    progress = Progress()
    try:
        while lines := reader.read(seen):
            for line in lines:
                result = _without_result(batch, line, unfinished)
                progress += result.progress
                _write(errors, result)
    finally:
        reader.close()
    return progress


def _without_result(
    batch: StoredBatch, line: BatchLine | LineError, unfinished: Unfinished
) -> LineResult:
    if isinstance(line, LineError):
        return unreadable(batch.batch_id, line)
    return not_run(batch.batch_id, line, unfinished.code, unfinished.message)


def _write(file: BinaryIO, result: LineResult) -> None:
    file.write(result.text.encode() + b"\n")
