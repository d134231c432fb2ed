"""API keys, as frontends know them: their digests, and what each allows."""

import hashlib
from typing import Annotated

from pydantic import Field

from headrace.protocol.engine_config import Frozen, Positive

KeyName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.@-]{0,63}$")]


class KeyLimits(Frozen):
    """Limits of one key over the whole pool; None: none.

    tokens_per_minute: of prompts and answers together.
    max_requests: at the same time.
    """

    requests_per_minute: Positive | None = None
    tokens_per_minute: Positive | None = None
    max_requests: Positive | None = None


class ApiKey(Frozen):
    """A key without its secret.

    digest: SHA-256 of the key in hexadecimal digits.
    tenant: whose requests and stored objects are kept apart from those of others; several keys may
        have the same.
    is_admin: whether it opens the operators' routes.
    models: served names that it may use; None: all.
    """

    name: KeyName
    digest: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    tenant: KeyName
    is_admin: bool = False
    models: tuple[str, ...] | None = None
    limits: KeyLimits = KeyLimits()


def digest_of(secret: str) -> str:
    """Return the digest of a key."""
    return hashlib.sha256(secret.encode()).hexdigest()
