"""API keys, as frontends know them: their digests, and what each allows."""

import hashlib
from typing import Annotated

from pydantic import ConfigDict, Field

from headrace.protocol.engine_config import Frozen, Positive

MAX_SECRET_BYTES = 1024
# Fixed, so that a key has the same name after each start.
_NAME_SALT = b"headrace key name"
_NAME_COST = 2**14  # 16 MiB and some 50 ms for a guess

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

    model_config = ConfigDict(hide_input_in_errors=True)

    name: KeyName
    digest: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$", repr=False)]
    tenant: KeyName
    is_admin: bool = False
    models: tuple[str, ...] | None = None
    limits: KeyLimits = KeyLimits()


def digest_of(secret: str) -> str:
    """Return the digest of a key."""
    return hashlib.sha256(secret.encode()).hexdigest()


def unnamed_key(secret: str, is_admin: bool = False) -> ApiKey:
    """Return a key that has no name, under one that is derived from it.

    The name appears in metrics. It is a slow hash, so that it helps nobody to guess a weak key.
    Raises ValueError if no client could send the key.
    """
    check_secret(secret)
    derived = hashlib.scrypt(secret.encode(), salt=_NAME_SALT, n=_NAME_COST, r=8, p=1, dklen=4)
    name = f"key-{derived.hex()}"
    return ApiKey(name=name, digest=digest_of(secret), tenant=name, is_admin=is_admin)


def check_secret(secret: str) -> None:
    """Raise ValueError if a header cannot hold this key."""
    if not secret:
        raise ValueError("must not be empty")
    if not secret.isprintable() or secret != secret.strip():
        raise ValueError("must not hold control characters, or spaces at its ends")
    if len(secret.encode("utf-8", "replace")) > MAX_SECRET_BYTES:
        raise ValueError(f"must not have more than {MAX_SECRET_BYTES} bytes")
