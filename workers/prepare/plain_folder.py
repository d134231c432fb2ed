"""A model's folder as transformers reads it where none of its own code may run."""

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from headrace.protocol.common.pooling.json_files import read_object

_CONFIG, _TOKENIZER = "config.json", "tokenizer_config.json"
_FAST_CLASS = "PreTrainedTokenizerFast"
_MAX_DEPTH = 20


class NeedsCodeError(Exception):
    """A model runs only with code that its authors have written. The text is one line."""


@contextmanager
def plain_folder(source: Path) -> Iterator[Path]:
    """Yield the folder, or one with links to its files whose configurations name no code.

    Raises NeedsCodeError if transformers lacks what the code does, and PoolingFilesError if a
    configuration cannot be read.
    """
    changed = {
        name: values
        for name, change in ((_CONFIG, _plain_config), (_TOKENIZER, _plain_tokenizer))
        if (source / name).is_file()
        and (values := change(source, before := read_object(source / name))) != before
    }
    if not changed:
        yield source
        return
    with tempfile.TemporaryDirectory(prefix="headrace-plain-") as name:
        plain = Path(name)
        for file in source.iterdir():
            if file.is_file() and file.name not in changed and file.suffix != ".py":
                (plain / file.name).symlink_to(file.absolute())
        for file_name, values in changed.items():
            (plain / file_name).write_text(json.dumps(values), encoding="utf-8")
        yield plain


def _plain_config(source: Path, config: dict[str, Any]) -> dict[str, Any]:
    from headrace.workers.torch_runner.model_class import SAME_TYPES, has_class

    if config.get("auto_map") and not has_class(config):
        names, kind = config.get("architectures"), config.get("model_type")
        name = names[0] if isinstance(names, list) and names else "class"
        raise NeedsCodeError(_needs(_CONFIG, f"transformers has no {name} for the type {kind}"))
    plain: dict[str, Any] = _without_code(config, _MAX_DEPTH)
    kind = plain.get("model_type")
    if isinstance(kind, str) and kind in SAME_TYPES:
        plain["model_type"] = SAME_TYPES[kind]
    return plain


def _plain_tokenizer(source: Path, config: dict[str, Any]) -> dict[str, Any]:
    from transformers.models.auto.tokenization_auto import tokenizer_class_from_name

    if not config.get("auto_map"):
        return config
    if not (source / "tokenizer.json").is_file():
        raise NeedsCodeError(_needs(_TOKENIZER, "there is no tokenizer.json instead"))
    plain: dict[str, Any] = _without_code(config, _MAX_DEPTH)
    name = plain.get("tokenizer_class")
    if not isinstance(name, str) or tokenizer_class_from_name(name) is None:
        plain["tokenizer_class"] = _FAST_CLASS
    return plain


def _needs(file: str, reason: str) -> str:
    return (
        f"its {file} names code of its own (auto_map), which is not run: {reason}; "
        "--trust-remote-code would run it"
    )


def _without_code(value: Any, depth: int) -> Any:
    """Return a configuration without auto_map, also in those within it."""
    if depth == 0:
        return value
    if isinstance(value, dict):
        kept = ((key, each) for key, each in value.items() if key != "auto_map")
        return {key: _without_code(each, depth - 1) for key, each in kept}
    if isinstance(value, list):
        return [_without_code(each, depth - 1) for each in value]
    return value
