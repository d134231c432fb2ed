"""What the pool was started with, as its operator may see it."""

import os
import platform
from collections.abc import Collection
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from headrace.protocol.common.redact import redact
from headrace.protocol.config import PoolConfig

# Where the server keeps its own files on this machine: nobody has chosen them.
_OWN_PATHS: dict[str, Any] = {"run_dir": True, "groups": {"__all__": {"model_path", "text_path"}}}
_PACKAGES = ("headrace", "torch", "transformers", "tokenizers", "llguidance", "pyzmq", "quart")
_ENVIRONMENT = ("HEADRACE_", "HF_", "CUDA_VISIBLE_DEVICES")


def configuration(config: PoolConfig, groups: Collection[str]) -> dict[str, Any]:
    """What the operator has chosen, and of these groups what follows from it; without secrets."""
    told: dict[str, Any] = config.model_dump(mode="json", exclude=_OWN_PATHS)
    told["groups"] = [group for group in told["groups"] if group["name"] in groups]
    shown: dict[str, Any] = redact(told)
    return shown


def environment() -> dict[str, str]:
    """The variables that choose something. Secrets are masked."""
    chosen = {name: value for name, value in os.environ.items() if name.startswith(_ENVIRONMENT)}
    shown: dict[str, str] = redact(dict(sorted(chosen.items())))
    return shown


@cache
def versions() -> dict[str, str]:
    """Of Python, the system and the packages that are installed; imports none of them."""
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def as_text(told: dict[str, Any], prefix: str = "") -> str:
    """The same in lines of name=value, names in front of others joined by dots."""
    lines = []
    for key, value in told.items():
        if isinstance(value, dict) and value:
            lines.append(as_text(value, f"{prefix}{key}."))
        elif key == "groups":
            lines += [as_text(group, f"{prefix}{group['name']}.") for group in value]
        else:
            lines.append(f"{prefix}{key}={value!r}")
    return "\n".join(lines)
