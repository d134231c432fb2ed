"""Inputs that are kept for each target: one JSON line with Base64 for each."""

import base64
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

FOLDER = Path(__file__).parent / "corpus"


def load(target: str) -> list[bytes]:
    """Return the kept inputs of a target."""
    file = FOLDER / f"{target}.jsonl"
    if not file.exists():
        return []
    return [base64.b64decode(json.loads(line)) for line in file.read_text().splitlines()]


def save(target: str, inputs: Iterable[bytes]) -> None:
    """Keep these inputs of a target in place of the others, the shortest first."""
    FOLDER.mkdir(exist_ok=True)
    ordered = sorted(set(inputs), key=lambda data: (len(data), data))
    lines = [json.dumps(base64.b64encode(data).decode()) + "\n" for data in ordered]
    (FOLDER / f"{target}.jsonl").write_text("".join(lines))


def write_files(inputs: Iterable[bytes], folder: Path) -> None:
    """Write each input to a file of its own, as libFuzzer reads them."""
    folder.mkdir(parents=True, exist_ok=True)
    for data in inputs:
        (folder / hashlib.sha256(data).hexdigest()[:16]).write_bytes(data)


def read_files(folder: Path) -> list[bytes]:
    """Return the inputs of a folder of libFuzzer's."""
    return [file.read_bytes() for file in sorted(folder.iterdir()) if file.is_file()]
