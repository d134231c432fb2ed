"""Remember the token ids of the beginnings of long texts, as a cache of K/V blocks does."""

import threading
from array import array
from collections import OrderedDict

# Bytes of an entry besides its token ids, about.
_ENTRY_BYTES = 250


class EncodedPrefixes:
    """Token ids of parts of texts, each under a digest of the text up to the part's end.

    Forgets what has not been used for longest. May be used by several threads.
    max_bytes: of memory, about.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._entries: OrderedDict[bytes, array[int]] = OrderedDict()
        self._lock = threading.Lock()
        self.num_bytes = 0

    def get(self, digest: bytes) -> "array[int] | None":
        with self._lock:
            token_ids = self._entries.get(digest)
            if token_ids is not None:
                self._entries.move_to_end(digest)
            return token_ids

    def put(self, digest: bytes, entry: "array[int]") -> None:
        with self._lock:
            if digest in self._entries:
                return
            self._entries[digest] = entry
            self.num_bytes += _size(entry)
            while self.num_bytes > self._max_bytes:
                _, oldest = self._entries.popitem(last=False)
                self.num_bytes -= _size(oldest)


def _size(entry: "array[int]") -> int:
    return _ENTRY_BYTES + entry.itemsize * len(entry)
