"""Names of full K/V blocks: equal for equal tokens behind equal beginnings."""

from array import array
from collections.abc import Sequence
from hashlib import blake2b


def block_hash(parent: bytes, token_ids: Sequence[int]) -> bytes:
    """The name of a full block: a digest of its parent's name and its own tokens.

    Cryptographic, because a collision would hand one request another's text; a client could
    provoke one with Python's own hash.
    """
    return blake2b(parent + array("q", token_ids).tobytes(), digest_size=32).digest()


def root_hash(adapter: str, cache_salt: str) -> bytes:
    """The parent of first blocks: requests share blocks only if adapter and salt are equal."""
    name = f"{len(adapter)}:{adapter}{cache_salt}"
    return blake2b(name.encode("utf-8", "surrogatepass"), digest_size=32).digest()
