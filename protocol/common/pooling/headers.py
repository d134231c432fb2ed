"""Read the headers of safetensors files, which tell the shapes of tensors."""

import json
from pathlib import Path

from headrace.protocol.common.pooling.json_files import PoolingFilesError, is_count

_MAX_HEADER = 100_000_000  # as the format's own reader


def tensor_shape(file: Path, name: str) -> tuple[int, ...] | None:
    """Return the shape of a tensor in a file; None if it is not there.

    Raises PoolingFilesError if the file is damaged.
    """
    try:
        with file.open("rb") as opened:
            size = int.from_bytes(opened.read(8), "little")
            header = json.loads(opened.read(size)) if size <= _MAX_HEADER else None
        shape = None if header is None else header.get(name, {}).get("shape")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise PoolingFilesError(f"{file}: cannot be read as safetensors") from error
    if not isinstance(shape, list) or not all(map(is_count, shape)):
        return None
    return tuple(shape)
