"""Prepare a GGUF file, or those of a split model: the weights stay in them.

A small folder is made once, with all that other models have in theirs and a reference to the files.
It belongs to the files as they are: size, time of modification and inode.
"""

from collections.abc import Callable
from dataclasses import astuple
from pathlib import Path

from headrace.launcher.models.model_cache import Progress, cached, joint_digest
from headrace.launcher.models.model_folder import ModelError
from headrace.protocol.common.gguf_reference import (
    FileStamp,
    GGUFFilesError,
    model_name,
    split_parts,
)

# Of the cache's entries: another number has them made anew.
_FORMAT = "3"


def gguf_folder(
    source: Path,
    version: str,
    cache: Path,
    progress: Progress,
    run_prepare: Callable[[str, Path, Path], None],
) -> Path:
    """Return the cached folder of a GGUF file.

    source: the file, or any part of a split one.
    version: of transformers, which reads the metadata. run_prepare: does so in its own process.

    Raises ModelError if a file is missing or none.
    """
    try:
        parts = split_parts(source)
        for part in parts:
            _check_magic(part)
        stamps = [str(astuple(FileStamp.of(part))) for part in parts]
    except OSError as error:
        raise ModelError(f"{source}: cannot be read: {error.strerror}") from error
    except GGUFFilesError as error:
        raise ModelError(str(error)) from error

    def build(entry: Path) -> None:
        progress(f"preparing {source.name}, once")
        run_prepare("gguf", source, entry)

    key = joint_digest([_FORMAT, version, *stamps])
    return cached(cache / "models" / f"{model_name(source)}-{key}", build, progress)


def _check_magic(file: Path) -> None:
    with file.open("rb") as stream:
        if stream.read(4) != b"GGUF":
            raise ModelError(f"{file}: is neither a folder nor a GGUF file")
