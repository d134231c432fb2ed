"""A model folder that differs from the one of its authors in its configuration or tokenizer."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from headrace.launcher.models.model_cache import (
    MANIFEST,
    Progress,
    cached,
    file_digest,
    joint_digest,
)
from headrace.launcher.models.model_folder import ModelError, read_json_object
from headrace.launcher.models.text_folder import TOKENIZER_FILES

CONFIG = "config.json"
# Files of a tokenizer that change what the model is asked, and those of its template.
_TEXT_FILES = (
    *(name for name in TOKENIZER_FILES if name != CONFIG),
    "chat_template.jinja",
    "chat_template.json",
)


def with_changes(
    folder: Path,
    tokenizer: Path | None,
    overrides: Mapping[str, Any],
    cache: Path,
    progress: Progress,
) -> Path:
    """Return a folder like a model's, with links to its weights and what is to be different.

    tokenizer: the folder of another tokenizer. overrides: of config.json; objects are merged.

    Raises ModelError if the tokenizer's folder has none.
    """
    config = _merged(read_json_object(folder / CONFIG, required=True), overrides)
    files = [] if tokenizer is None else _text_files(tokenizer)
    if tokenizer is not None and not files:
        raise ModelError(f"--tokenizer: {tokenizer}: no tokenizer in this folder")
    key = joint_digest(
        [str(folder.absolute()), json.dumps(config, sort_keys=True)]
        + [file_digest(file) for file in files]
        + sorted(file.name for file in folder.iterdir())
    )

    def build(entry: Path) -> None:
        for file in folder.iterdir():
            if file.name in (CONFIG, MANIFEST) or (files and file in _text_files(folder)):
                continue
            (entry / file.name).symlink_to(file.absolute())
        for file in files:
            shutil.copyfile(file, entry / file.name)
        (entry / CONFIG).write_text(json.dumps(config, indent=1), encoding="utf-8")

    return cached(cache / "changed" / f"{folder.name}-{key}", build, progress)


def _text_files(folder: Path) -> list[Path]:
    named = [folder / name for name in _TEXT_FILES if (folder / name).is_file()]
    return named + sorted(folder.glob("*.tiktoken"))


def _merged(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(values)
    for key, value in changes.items():
        before = merged.get(key)
        if isinstance(before, dict) and isinstance(value, dict):
            value = _merged(before, value)
        merged[key] = value
    return merged
