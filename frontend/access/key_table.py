"""The keys of a server, by which clients are recognised."""

import hashlib
import hmac
from collections.abc import Sequence

from headrace.protocol.api_keys import MAX_SECRET_BYTES, ApiKey
from headrace.protocol.common import key_file
from headrace.protocol.config import PoolConfig


class KeyTable:
    """The keys that flags and variables give, and those of the file, which may change.

    is_open: whether no client needs a key. has_admin: whether there is a key for operators.
    """

    def __init__(self, given: Sequence[ApiKey] = (), is_open: bool = True) -> None:
        self.is_open = is_open and not given
        self.given = tuple(given)
        self._file_keys: tuple[ApiKey, ...] = ()
        self._set(())

    @classmethod
    def of(cls, config: PoolConfig) -> "KeyTable":
        """Return the table of a configuration, with the keys that its file last had."""
        table = cls((*config.api_keys, *config.admin_keys), is_open=not config.needs_key)
        if config.api_key_file is not None:
            table.replace_file_keys(key_file.load_last_good(config.run_dir))
        return table

    def replace_file_keys(self, keys: Sequence[ApiKey]) -> bool:
        """Replace the keys of the file, all at once; return whether any differs."""
        is_change = tuple(keys) != self._file_keys
        self._set(tuple(keys))
        return is_change

    def _set(self, keys: tuple[ApiKey, ...]) -> None:
        self._file_keys = keys
        self._entries = [(bytes.fromhex(key.digest), key) for key in (*self.given, *keys)]
        self.has_admin = any(key.is_admin for _, key in self._entries)
        self._by_name = {key.name: key for _, key in self._entries}

    def find(self, secret: bytes) -> ApiKey | None:
        """Return the key that a client has sent; None if there is no such key.

        Its digest is compared with those of all keys, so that the time tells nothing about any.
        """
        if len(secret) > MAX_SECRET_BYTES:
            return None
        digest = hashlib.sha256(secret).digest()
        found = None
        for known, key in self._entries:
            if hmac.compare_digest(known, digest):
                found = key
        return found

    def named(self, name: str) -> ApiKey | None:
        """Return the key of a name; None if there is none."""
        return self._by_name.get(name)
