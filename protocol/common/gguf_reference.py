"""The reference from a prepared folder to the GGUF file that holds the model's weights.

The launcher writes it once and checks it at each start; workers read the weights where it points.
"""

import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

REFERENCE = "gguf.json"  # the file's name in the folder
FACTS = "facts"  # the folder in it with what frontends read (headrace.workers.prepare.prepare)
_SPLIT = re.compile(r"(?P<stem>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")


class GGUFFilesError(ValueError):
    """The files are not there, or not those that were prepared; the text says which."""


@dataclass(frozen=True, slots=True)
class FileStamp:
    """What tells whether a file is still the same."""

    path: str
    size: int
    mtime_ns: int
    inode: int

    @classmethod
    def of(cls, file: Path) -> "FileStamp":
        """Return a file's stamp. Raises OSError if it cannot be read."""
        status = file.stat()
        return cls(str(file.absolute()), status.st_size, status.st_mtime_ns, status.st_ino)


def split_parts(file: Path) -> list[Path]:
    """Return all files of a model of which one is given; only that one if it is not split.

    Files of a split model are named ...-00001-of-00003.gguf and so on.
    Raises GGUFFilesError if one is missing.
    """
    match = _SPLIT.fullmatch(file.name)
    if match is None:
        return [file]
    count = int(match["count"])
    names = [f"{match['stem']}-{number:05}-of-{count:05}.gguf" for number in range(1, count + 1)]
    parts = [file.with_name(name) for name in names]
    missing = [part.name for part in parts if not part.is_file()]
    if missing or not 1 <= int(match["number"]) <= count:
        name = missing[0] if missing else file.name
        raise GGUFFilesError(f"{file}: is part of a split GGUF, of which {name} is missing")
    return parts


def model_name(file: Path) -> str:
    """Return the name of a GGUF file's model, without the number of a part."""
    match = _SPLIT.fullmatch(file.name)
    return file.stem if match is None else match["stem"]


def write_reference(folder: Path, files: list[Path], tensors: list[dict[str, Any]]) -> None:
    """Write the reference to files, with where the model's tensors lie."""
    stamps = [asdict(FileStamp.of(file)) for file in files]
    text = json.dumps({"files": stamps, "tensors": tensors})
    (folder / REFERENCE).write_text(text, encoding="utf-8")


def read_reference(folder: Path) -> tuple[list[FileStamp], list[dict[str, Any]]] | None:
    """Return the files that a folder refers to, and its tensors; None if it refers to none.

    Raises GGUFFilesError if the reference is damaged.
    """
    try:
        value = json.loads((folder / REFERENCE).read_text(encoding="utf-8"))
        return [FileStamp(**entry) for entry in value["files"]], value["tensors"]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise GGUFFilesError(f"{folder / REFERENCE}: is damaged") from error


def check_files(stamps: list[FileStamp]) -> None:
    """Check that the files are those that were prepared. Raises GGUFFilesError if one is not."""
    for stamp in stamps:
        try:
            now = FileStamp.of(Path(stamp.path))
        except OSError as error:
            raise GGUFFilesError(f"{stamp.path}: {error.strerror}") from error
        if now != stamp:
            raise GGUFFilesError(f"{stamp.path}: has changed since the start; start again")
