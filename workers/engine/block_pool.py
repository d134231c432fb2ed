"""Blocks of the paged K/V cache: who holds them, and which can be found again by their content.

A block is free when nobody holds it. A free block that was full keeps its content, so that a later
request with the same prefix can take it up again; such blocks are handed out last, the least
recently used first.
"""

from collections import OrderedDict
from collections.abc import Iterable, Sequence


class BlockPool:
    """Counts the holders of each of `num_blocks` blocks and remembers full ones by their hash."""

    def __init__(self, num_blocks: int, block_size: int) -> None:
        self.num_blocks = num_blocks
        self.block_size = block_size
        self._holders = [0] * num_blocks
        self._free: OrderedDict[int, None] = OrderedDict.fromkeys(range(num_blocks))
        self._hash_of: dict[int, bytes] = {}
        self._block_of: dict[bytes, int] = {}

    @property
    def free_count(self) -> int:
        return len(self._free)

    @property
    def used_count(self) -> int:
        return self.num_blocks - len(self._free)

    def blocks_for(self, num_tokens: int) -> int:
        """How many blocks hold so many tokens."""
        return -(-num_tokens // self.block_size)

    def find(self, hashes: Iterable[bytes]) -> list[int]:
        """The blocks of the longest run of `hashes`, from the first on, that is remembered."""
        found = []
        for name in hashes:
            block = self._block_of.get(name)
            if block is None:
                break
            found.append(block)
        return found

    def free_among(self, blocks: Sequence[int]) -> int:
        """How many of `blocks` are free, so that holding them lowers `free_count`."""
        return sum(1 for block in blocks if self._holders[block] == 0)

    def hold(self, blocks: Iterable[int]) -> None:
        """Become one more holder of each block."""
        for block in blocks:
            if self._holders[block] == 0:
                del self._free[block]
            self._holders[block] += 1

    def allocate(self, count: int) -> list[int]:
        """Hold `count` free blocks, whose content is forgotten. IndexError if there are fewer."""
        if count > len(self._free):
            raise IndexError(f"{count} blocks wanted, {len(self._free)} free")
        blocks = []
        for _ in range(count):
            block, _ = self._free.popitem(last=False)
            self._forget(block)
            self._holders[block] = 1
            blocks.append(block)
        return blocks

    def release(self, blocks: Sequence[int]) -> None:
        """Cease to hold each block.

        From the last to the first: a prefix is of use without its continuation, not the other way
        round, so the continuation is to be handed out first.
        """
        for block in reversed(blocks):
            self._holders[block] -= 1
            if self._holders[block] == 0:
                self._free[block] = None
                if block not in self._hash_of:
                    self._free.move_to_end(block, last=False)

    def register(self, block: int, name: bytes) -> None:
        """Let a full block be found by its hash. The first of equal blocks is kept."""
        if name not in self._block_of:
            self._block_of[name] = block
            self._hash_of[block] = name

    def clear(self) -> None:
        """Remember no block; those that are held stay so."""
        self._block_of.clear()
        self._hash_of.clear()

    def _forget(self, block: int) -> None:
        name = self._hash_of.pop(block, None)
        if name is not None:
            del self._block_of[name]
