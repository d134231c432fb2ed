"""Read the JSON files of models that pool."""

import json
from pathlib import Path
from typing import Any


class PoolingFilesError(ValueError):
    """The files of a model that pools cannot be used; the text is one line for the operator."""


def read_object(file: Path) -> dict[str, Any]:
    """Return the JSON object in a file; {} if there is no file."""
    value = read_json(file)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise PoolingFilesError(f"{file}: is not a JSON object")
    return value


def read_json(file: Path) -> Any:
    """Return what a file holds; None if there is no file. Raises PoolingFilesError."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise PoolingFilesError(f"{file}: cannot be read as JSON") from error


def is_count(value: object) -> bool:
    """Return whether a value is a whole number above 0."""
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
