"""Read keys from a request's headers."""

from collections.abc import Iterable

from headrace.protocol.api_keys import MAX_SECRET_BYTES

# Of one request; further ones are not looked at.
MAX_CREDENTIALS = 4


def credentials(headers: Iterable[tuple[bytes, bytes]]) -> list[bytes]:
    """Return the keys that a request offers: those of `Authorization: Bearer`, then of `x-api-key`.

    Both are bytes as they were sent: a key may hold any characters in UTF-8.
    """
    bearers: list[bytes] = []
    others: list[bytes] = []
    for name, value in headers:
        lowered = name.lower()
        if lowered == b"authorization":
            scheme, _, secret = value.strip().partition(b" ")
            if scheme.lower() == b"bearer":
                bearers.append(secret.strip())
        elif lowered == b"x-api-key":
            others.append(value.strip())
    given = [secret for secret in (*bearers, *others) if secret]
    return [secret[: MAX_SECRET_BYTES + 1] for secret in given[:MAX_CREDENTIALS]]
