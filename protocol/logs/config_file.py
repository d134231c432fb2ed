"""An operator's own configuration of the log: a dictionary for logging.config, from a file."""

import json
import logging
import logging.config
import tomllib
from pathlib import Path
from typing import Any

MAX_BYTES = 1024 * 1024


def read_log_config(path: Path) -> dict[str, Any]:
    """Return the configuration that a JSON, TOML or YAML file holds; its name says which.

    Raises ValueError, with one line, if it cannot be read.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from error
    if len(data) > MAX_BYTES:
        raise ValueError(f"{path} is larger than {MAX_BYTES} bytes")
    try:
        config = _parse(path.suffix.lower(), data.decode())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read: {' '.join(str(error).split())}") from error
    if not isinstance(config, dict):
        raise ValueError(f"{path} holds no dictionary")
    return config


def _parse(suffix: str, text: str) -> object:
    if suffix == ".toml":
        return tomllib.loads(text)
    if suffix in (".yaml", ".yml"):
        return _parse_yaml(text)
    return json.loads(text)


def _parse_yaml(text: str) -> object:
    import yaml  # late: no other configuration needs it, and each process would take the time

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error


def apply_log_config(config: dict[str, Any]) -> None:
    """Configure the log of this process; loggers that it does not name stay as they are.

    Raises ValueError, with one line, if it is invalid.
    """
    try:
        logging.config.dictConfig({"version": 1, "disable_existing_loggers": False, **config})
    except Exception as error:  # of classes that it names, too
        causes = [str(each) for each in (error, error.__cause__) if each is not None]
        raise ValueError(" ".join(": ".join(causes).split())) from error
