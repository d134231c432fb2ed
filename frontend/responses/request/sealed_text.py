"""Carry text in fields that other servers fill with encrypted content.

Some clients send back nothing of reasoning but this field. There is nothing to hide from a client
that has the text anyway, so that it is encoded and not encrypted.
"""

import base64
import binascii

_PREFIX = "headrace1:"


def seal(text: str) -> str:
    """Return the content of the field for a text."""
    return _PREFIX + base64.b64encode(text.encode()).decode()


def unseal(content: str | None) -> str | None:
    """Return the text of a field; None if another server has filled it."""
    if content is None or not content.startswith(_PREFIX):
        return None
    try:
        return base64.b64decode(content[len(_PREFIX) :], validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return None
