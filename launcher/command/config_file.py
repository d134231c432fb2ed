"""The file of --config: options in TOML, or flags in YAML as the reference reads them."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from headrace.launcher.command.given import BadFlag, Given, KnownFlag, read_mapping
from headrace.launcher.command.option_errors import OptionError


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
        return ConfigFile(options=tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise OptionError(f"--config: {path} is not TOML: {error}") from error


def _read_yaml(path: Path, text: str, known: Mapping[str, KnownFlag]) -> dict[str, Given]:
    import yaml  # only for this

    try:
        flags = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise OptionError(f"--config: {path} is not YAML: {reason}") from error
    if flags is None:
        return {}
    if not isinstance(flags, dict):
        raise OptionError(f"--config: {path}: must give flags by their names")
    try:
        given = read_mapping(flags.items(), known)
    except BadFlag as error:
        raise OptionError(f"--config: {path}: {error}") from error
    if "--config" in given:
        raise OptionError(f"--config: {path}: must not name another file")
    return given
