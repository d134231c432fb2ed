"""Redact a configuration, or a text for the log: hide what looks like a secret."""

import re
from typing import Any

REDACTED = "***"
# Anywhere in a name: redacting a harmless value is better than showing a secret.
_SECRET_NAME = re.compile("key|token|secret|passw|credential|authorization", re.IGNORECASE)
_WORD = re.compile(r"\S+")
_URL_PARAMETER = re.compile(
    r"([?&;](?:[\w-]*(?:key|token|secret|password|passwd))=)[^&#;\s]*", re.IGNORECASE
)
# Values of headers that authenticate, however a text writes them down.
_HEADER = re.compile(
    r"""((?:authorization|x-api-key|api[-_]key)['"]{0,2}\s{0,4}[:=,]\s{0,4}(?:b(?=['"]))?['"]?"""
    r"""(?:(?:bearer|basic)\s{1,4})?)[^\s'",;)}]+""",
    re.IGNORECASE,
)
_BEARER = re.compile(r"\b(bearer\s{1,4})[\w.~+/=-]{6,}", re.IGNORECASE)


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


def redact_text(text: str) -> str:
    """Return a text without passwords in URLs and without values of headers that authenticate.

    Takes time in proportion to its length.
    """
    text = _HEADER.sub(rf"\g<1>{REDACTED}", text)
    return _redact_urls(_BEARER.sub(rf"\g<1>{REDACTED}", text))


def _redact_urls(text: str) -> str:
    """Hide passwords in URLs, before the host or in their parameters."""
    if "://" in text and "@" in text:
        text = _WORD.sub(_without_credentials, text)
    return _URL_PARAMETER.sub(rf"\g<1>{REDACTED}", text) if "=" in text else text


def _without_credentials(match: re.Match[str]) -> str:
    """Hide what comes before a host. A password may hold any character: the last @ ends it."""
    word = match[0]
    begin, end = word.find("://"), word.rfind("@")
    if not 0 <= begin < end:
        return word
    return f"{word[: begin + 3]}{REDACTED}{word[end:]}"
