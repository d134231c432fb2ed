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
from headrace.protocol.common.gguf_reference import FACTS

CONFIG = "config.json"
_ROPE_KEYS = {"rope_parameters", "rope_scaling", "rope_theta"}
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
    config = read_json_object(folder / CONFIG, required=True)
    if _ROPE_KEYS & overrides.keys():
        config, overrides = _with_one_rope(config), _with_one_rope(overrides)
    config = _merged(config, overrides)
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
            if file.name in (CONFIG, MANIFEST, FACTS) or (files and file in _text_files(folder)):
                continue
            (entry / file.name).symlink_to(file.absolute())
        for file in files:
            shutil.copyfile(file, entry / file.name)
        (entry / CONFIG).write_text(json.dumps(config, indent=1), encoding="utf-8")

    return cached(cache / "changed" / f"{folder.name}-{key}", build, progress)


def _with_one_rope(values: Mapping[str, Any]) -> dict[str, Any]:
    """Write the parameters of the rotary embedding in their newest form.

    transformers takes the older one (rope_scaling, and rope_theta beside it) where a file has both,
    so that an override in the other form would have no effect.
    """
    one = dict(values)
    rope = dict(one.pop("rope_parameters", None) or {})
    rope |= one.pop("rope_scaling", None) or {}
    if "type" in rope:
        rope.setdefault("rope_type", rope.pop("type"))
    if (theta := one.pop("rope_theta", None)) is not None:
        rope.setdefault("rope_theta", theta)
    return {**one, "rope_parameters": rope} if rope else one


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
