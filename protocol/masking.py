"""A configuration as it may be shown: what looks like a secret is masked."""

import re
from typing import Any

MASK = "***"
_SECRET = re.compile(
    r"(^|_)(api_?key|key|token|secret|password|passwd|credentials?)$", re.IGNORECASE
)
# Before a host. A password may hold any character, so the last @ is what ends it.
_CREDENTIALS = re.compile(r"(\w[\w+.-]*://)\S*@")
_PARAMETER = re.compile(
    r"([?&;](?:[\w-]*(?:key|token|secret|password|passwd))=)[^&#;\s]*", re.IGNORECASE
)


def masked(value: Any, name: str = "") -> Any:
    """A JSON value in which secrets are masked. name: of the field that holds it."""
    if isinstance(value, dict):
        return {str(key): masked(item, str(key)) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [masked(item, name) for item in value]
    if isinstance(value, str):
        return MASK if value and _SECRET.search(name) else _without_credentials(value)
    return value


def _without_credentials(text: str) -> str:
    """Passwords stand in URLs before the host, or in their parameters."""
    text = _CREDENTIALS.sub(rf"\g<1>{MASK}@", text)
    return _PARAMETER.sub(rf"\g<1>{MASK}", text)
