"""The file of --config: options in TOML, or flags in YAML as the reference reads them."""

import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from headrace.launcher.command.given import BadFlag, Given, KnownFlag, read_mapping
from headrace.launcher.command.option_errors import OptionError

_MAX_VALUES = 100_000


@dataclass(frozen=True)
class ConfigFile:
    """What a file gives: options by their keys (TOML), or flags by their names (YAML)."""

    options: dict[str, Any] = field(default_factory=dict)
    flags: dict[str, Given] = field(default_factory=dict)


def read_file(path: Path, known: Mapping[str, KnownFlag]) -> ConfigFile:
    """Read a file; its suffix tells in which form it is. Raises OptionError if it is invalid."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise OptionError(f"--config: cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise OptionError(f"--config: {path} is not text: {error}") from error
    if path.suffix in (".yaml", ".yml"):
        return ConfigFile(flags=_read_yaml(path, text, known))
    try:
        options = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise OptionError(f"--config: {path} is not TOML: {error}") from error
    if "config" in options:
        raise OptionError(f"--config: {path}: must not name another file")
    return ConfigFile(options=options)


def _read_yaml(path: Path, text: str, known: Mapping[str, KnownFlag]) -> dict[str, Given]:
    import yaml  # only for this

    try:
        flags = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError) as error:
        raise OptionError(f"--config: {path} is not YAML: {_yaml_problem(error)}") from error
    if flags is None:
        return {}
    if _holds_too_much(flags):
        raise OptionError(f"--config: {path}: holds more than {_MAX_VALUES} values")
    if not isinstance(flags, dict):
        raise OptionError(f"--config: {path}: must give flags by their names")
    try:
        given = read_mapping(flags.items(), known)
    except BadFlag as error:
        raise OptionError(f"--config: {path}: {error}") from error
    if "--config" in given:
        raise OptionError(f"--config: {path}: must not name another file")
    return given


def _yaml_problem(error: Exception) -> str:
    """Return what is wrong and where, without the line itself: a key may stand there."""
    mark = getattr(error, "problem_mark", None)
    problem = " ".join(str(getattr(error, "problem", None) or "it cannot be read").split())
    return (
        problem if mark is None else f"{problem} (line {mark.line + 1}, column {mark.column + 1})"
    )


def _holds_too_much(flags: object) -> bool:
    """Return whether there are too many values, where each alias counts as what it stands for.

    A few lines of aliases may stand for more than fits into memory, or hold themselves.
    """
    left, count = [flags], 0
    while left:
        value = left.pop()
        inner = value.values() if isinstance(value, dict) else value
        if isinstance(inner, str) or not isinstance(inner, Collection):
            continue
        count += len(inner)
        if count > _MAX_VALUES:
            return True
        left += inner
    return False
