"""A configuration as it may be shown: what looks like a secret is masked."""

import re
from typing import Any

MASK = "***"
# Anywhere in a name: better a harmless text too many than a secret too few.
_SECRET = re.compile("key|token|secret|passw|credential|authorization", re.IGNORECASE)
# Before a host. A password may hold any character, so the last @ is what ends it.
_CREDENTIALS = re.compile(r"(\w[\w+.-]*://)\S*@")
_PARAMETER = re.compile(
    r"([?&;](?:[\w-]*(?:key|token|secret|password|passwd))=)[^&#;\s]*", re.IGNORECASE
)


def redact(value: Any, is_secret: bool = False) -> Any:
    """A JSON value in which secrets are masked; all texts in it, if it is one itself."""
    if isinstance(value, dict):
        return {
            str(key): redact(item, is_secret or _SECRET.search(str(key)) is not None)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [redact(item, is_secret) for item in value]
    if isinstance(value, str):
        return MASK if value and is_secret else _without_credentials(value)
    return value


def _without_credentials(text: str) -> str:
    """Passwords stand in URLs before the host, or in their parameters."""
    text = _CREDENTIALS.sub(rf"\g<1>{MASK}@", text)
    return _PARAMETER.sub(rf"\g<1>{MASK}", text)
