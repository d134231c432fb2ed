"""The configuration that the pool was started with, as operators may see it."""

import os
import platform
from collections.abc import Collection, Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from headrace.protocol.common.redact import redact
from headrace.protocol.config import PoolConfig

# Paths of the server's own files, which no operator has chosen.
_OWN_PATHS: dict[str, Any] = {"run_dir": True, "groups": {"__all__": {"model_path", "text_path"}}}
_PACKAGES = ("headrace", "torch", "transformers", "tokenizers", "llguidance", "pyzmq", "quart")
_ENVIRONMENT = ("HEADRACE_", "HF_", "CUDA_VISIBLE_DEVICES")


def configuration(
    config: PoolConfig, groups: Collection[str], found: Mapping[str, str]
) -> dict[str, Any]:
    """Return the configuration of the pool and of these groups; secrets are masked.

    found: by group, which formats were found in its model's chat template.
    """
    values: dict[str, Any] = config.model_dump(mode="json", exclude=_OWN_PATHS)
    values["groups"] = [
        {**group, "found_formats": found.get(group["name"], "")}
        for group in values["groups"]
        if group["name"] in groups
    ]
    shown: dict[str, Any] = redact(values)
    return shown


def environment() -> dict[str, str]:
    """Return the environment variables that configure the server; secrets are masked."""
    chosen = {name: value for name, value in os.environ.items() if name.startswith(_ENVIRONMENT)}
    shown: dict[str, str] = redact(dict(sorted(chosen.items())))
    return shown


@cache
def versions() -> dict[str, str]:
    """Return the versions of Python, the system and installed packages, without importing these."""
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def as_text(values: dict[str, Any], prefix: str = "") -> str:
    """Return a configuration as lines of name=value, with nested names joined by dots."""
    lines = []
    for key, value in values.items():
        if isinstance(value, dict) and value:
            lines.append(as_text(value, f"{prefix}{key}."))
        elif key == "groups":
            lines += [as_text(group, f"{prefix}{group['name']}.") for group in value]
        else:
            lines.append(f"{prefix}{key}={value!r}")
    return "\n".join(lines)
