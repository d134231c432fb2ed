"""Redact a configuration: hide what looks like a secret."""

import re
from typing import Any

REDACTED = "***"
# Anywhere in a name: redacting a harmless value is better than showing a secret.
_SECRET_NAME = re.compile("key|token|secret|passw|credential|authorization", re.IGNORECASE)
# Before a host. A password may hold any character, so the last @ ends it.
_URL_CREDENTIALS = re.compile(r"(\w[\w+.-]*://)\S*@")
_URL_PARAMETER = re.compile(
    r"([?&;](?:[\w-]*(?:key|token|secret|password|passwd))=)[^&#;\s]*", re.IGNORECASE
)


def redact(value: Any, is_secret: bool = False) -> Any:
    """Return a JSON value without its secrets.

    is_secret: whether the value is a secret itself, so that all strings in it are hidden.
    """
    if isinstance(value, dict):
        return {
            str(key): redact(item, is_secret or _SECRET_NAME.search(str(key)) is not None)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [redact(item, is_secret) for item in value]
    if isinstance(value, str):
        return REDACTED if value and is_secret else _redact_urls(value)
    return value


def _redact_urls(text: str) -> str:
    """Hide passwords in URLs, before the host or in their parameters."""
    text = _URL_CREDENTIALS.sub(rf"\g<1>{REDACTED}@", text)
    return _URL_PARAMETER.sub(rf"\g<1>{REDACTED}", text)
