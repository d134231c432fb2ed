"""Allocate the blocks of the paged K/V cache, and find full ones again by their content.

A block is free when it has no holder. A free block that was full keeps its content, so that a later
request with the same prefix can reuse it; such blocks are allocated last, the least recently used
first.
"""

from collections import OrderedDict
from collections.abc import Iterable, Sequence


class BlockPool:
    """`num_blocks` blocks of `block_size` tokens, with their reference counts and hashes."""

    def __init__(self, num_blocks: int, block_size: int) -> None:
        self.num_blocks = num_blocks
        self.block_size = block_size
        self._holders = [0] * num_blocks
        self._free: OrderedDict[int, None] = OrderedDict.fromkeys(range(num_blocks))
        self._hash_of: dict[int, bytes] = {}
        self._block_of: dict[bytes, int] = {}

    @property
    def free_count(self) -> int:
        """Number of free blocks."""
        return len(self._free)

    @property
    def used_count(self) -> int:
        """Number of blocks that have a holder."""
        return self.num_blocks - len(self._free)

    def blocks_for(self, num_tokens: int) -> int:
        """Return how many blocks `num_tokens` tokens need."""
        return -(-num_tokens // self.block_size)

    def find(self, hashes: Iterable[bytes]) -> list[int]:
        """Return the blocks registered under the longest prefix of `hashes`."""
        found = []
        for block_hash in hashes:
            block = self._block_of.get(block_hash)
            if block is None:
                break
            found.append(block)
        return found

    def free_among(self, blocks: Sequence[int]) -> int:
        """Return how many of `blocks` are free, so that holding them lowers `free_count`."""
        return sum(1 for block in blocks if self._holders[block] == 0)

    def hold(self, blocks: Iterable[int]) -> None:
        """Add a holder to each block."""
        for block in blocks:
            if self._holders[block] == 0:
                del self._free[block]
            self._holders[block] += 1

    def allocate(self, count: int) -> list[int]:
        """Hold `count` free blocks and discard their content. Raises IndexError if there are fewer.

        Returns the blocks' numbers.
        """
        if count > len(self._free):
            raise IndexError(f"cannot allocate {count} blocks: {len(self._free)} are free")
        blocks = []
        for _ in range(count):
            block, _ = self._free.popitem(last=False)
            self._unregister(block)
            self._holders[block] = 1
            blocks.append(block)
        return blocks

    def release(self, blocks: Sequence[int]) -> None:
        """Remove a holder from each block.

        From the last to the first: a prefix is of use without its continuation, but not the other
        way round, so the continuation must be allocated first.
        """
        for block in reversed(blocks):
            self._holders[block] -= 1
            if self._holders[block] == 0:
                self._free[block] = None
                if block not in self._hash_of:
                    self._free.move_to_end(block, last=False)

    def register(self, block: int, block_hash: bytes) -> None:
        """Let `find` return a full block by its hash. Of equal blocks the first is kept."""
        if block_hash not in self._block_of:
            self._block_of[block_hash] = block
            self._hash_of[block] = block_hash

    def clear(self) -> None:
        """Unregister all blocks. Those that are held stay held."""
        self._block_of.clear()
        self._hash_of.clear()

    def _unregister(self, block: int) -> None:
        block_hash = self._hash_of.pop(block, None)
        if block_hash is not None:
            del self._block_of[block_hash]
