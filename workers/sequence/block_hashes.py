"""Hash full K/V blocks: equal hashes for equal tokens after equal prefixes."""

from array import array
from collections.abc import Sequence
from hashlib import blake2b


def block_hash(parent: bytes, token_ids: Sequence[int]) -> bytes:
    """Return the hash of a full block: a digest of its parent's hash and its own tokens.

    Cryptographic, because a collision would show one request another's text; a client could
    provoke one with Python's own hash.
    """
    return blake2b(parent + array("q", token_ids).tobytes(), digest_size=32).digest()


def root_hash(adapter: str, cache_salt: str, is_long: bool = False) -> bytes:
    """Return the parent of first blocks.

    Requests share blocks only if their adapters and salts are equal, and if both or neither have
    the rotary frequencies of long sequences.
    """
    name = f"{len(adapter)}:{adapter}{cache_salt}"
    person = b"long" if is_long else b""
    return blake2b(name.encode("utf-8", "surrogatepass"), digest_size=32, person=person).digest()
