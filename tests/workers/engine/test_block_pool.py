import pytest

from headrace.workers.engine.block_pool import BlockPool
from headrace.workers.sequence.block_hashes import block_hash, root_hash


def test_blocks_are_handed_out_least_recently_used_last_when_remembered() -> None:
    pool = BlockPool(4, 16)
    blocks = pool.allocate(3)
    pool.register(blocks[0], b"a")
    pool.register(blocks[1], b"b")
    pool.release(blocks)  # the third was never full, so nothing is lost with it
    fourth = ({0, 1, 2, 3} - set(blocks)).pop()
    assert set(pool.allocate(2)) == {blocks[2], fourth}
    assert pool.find([b"a", b"b"]) == blocks[:2]
    assert pool.allocate(1) == [blocks[1]]  # a prefix outlives its continuation
    assert pool.find([b"a", b"b"]) == blocks[:1]


def test_held_blocks_are_not_handed_out() -> None:
    pool = BlockPool(2, 16)
    first = pool.allocate(1)
    pool.register(first[0], b"a")
    pool.hold(first)
    pool.release(first)
    assert pool.free_count == 1
    with pytest.raises(IndexError):
        pool.allocate(2)
    assert pool.allocate(1) != first
    pool.release(first)
    assert pool.free_among(first) == 1
    pool.hold(pool.find([b"a"]))
    assert pool.free_count == 0


def test_of_equal_blocks_the_first_is_kept() -> None:
    pool = BlockPool(2, 16)
    first, second = pool.allocate(2)
    pool.register(first, b"a")
    pool.register(second, b"a")
    assert pool.find([b"a"]) == [first]
    pool.release([second])
    assert pool.allocate(1) == [second]
    assert pool.find([b"a"]) == [first]


def test_a_run_ends_at_the_first_unknown_hash() -> None:
    pool = BlockPool(3, 16)
    blocks = pool.allocate(3)
    pool.register(blocks[0], b"a")
    pool.register(blocks[2], b"c")
    assert pool.find([b"a", b"b", b"c"]) == [blocks[0]]


def test_hashes_tell_apart_parents_tokens_adapters_and_salts() -> None:
    names = [
        block_hash(root_hash(adapter, salt), tokens)
        for adapter, salt in [
            ("", ""),
            ("a", ""),
            ("", "a"),
            ("1:", ""),
            ("", "1:"),
            ("", "\ud800"),
        ]
        for tokens in ([1, 23], [12, 3], [1, 2], [2**40, 1])
    ]
    names += [block_hash(name, [1, 23]) for name in names]
    assert len(set(names)) == len(names)
    assert names[0] == block_hash(root_hash("", ""), (1, 23))
