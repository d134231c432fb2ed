"""The choice of a worker."""

from collections import Counter

import pytest

from headrace.frontend.pool.routing import AFFINITY_TOKENS, Candidate, choose
from headrace.protocol.sampling import SamplingParams
from headrace.protocol.speech import AudioInput
from headrace.protocol.to_worker import Generate

SAMPLING = SamplingParams(seed=0, max_tokens=1)


def request(start: int, length: int = AFFINITY_TOKENS, salt: str = "") -> Generate:
    tokens = tuple(range(start, start + length))
    return Generate("r", tokens, SAMPLING, cache_salt=salt)


def idle(*names: str) -> list[Candidate]:
    return [Candidate(name, 0, 0) for name in names]


def test_long_prefix_finds_the_same_worker_in_any_order() -> None:
    workers = idle("g-0.0", "g-1.0", "g-2.0", "g-3.0")
    for start in range(50):
        chosen = choose(workers, request(start))
        assert chosen == choose(workers[::-1], request(start))
        assert chosen == choose(workers, request(start, AFFINITY_TOKENS))


def test_different_prefixes_spread() -> None:
    workers = idle("g-0.0", "g-1.0", "g-2.0", "g-3.0")
    counts = Counter(choose(workers, request(start)) for start in range(400))
    assert set(counts) == {worker.worker_id for worker in workers}
    assert min(counts.values()) > 60


def test_restarted_worker_keeps_its_prefixes() -> None:
    before, after = idle("g-0.0", "g-1.0"), idle("g-0.0", "g-1.7")
    for start in range(30):
        old, new = choose(before, request(start)), choose(after, request(start))
        assert old.partition(".")[0] == new.partition(".")[0]


def test_salt_parts_prefixes() -> None:
    workers = idle(*(f"g-{number}.0" for number in range(8)))
    assert len({choose(workers, request(0, salt=str(salt))) for salt in range(50)}) > 1


def test_requests_about_a_window_find_the_same_of_the_least_busy() -> None:
    def about(number: int) -> Generate:
        return Generate("r", (1,), SAMPLING, audio=AudioInput(b"", bytes([number])))

    workers = idle("g-0.0", "g-1.0", "g-2.0")
    counts = Counter(choose(workers, about(number)) for number in range(200))
    assert min(counts[worker.worker_id] for worker in workers) > 30
    for number in range(50):
        chosen = choose(workers, about(number))
        assert chosen == choose(workers[::-1], about(number))
        # A window does not wait for its worker while another is idle, but among many.
        busy = [
            each._replace(load=1, expected=1) if each.worker_id == chosen else each
            for each in workers
        ]
        assert choose(busy, about(number)) != chosen
        crowd = [each._replace(load=20, expected=20) for each in busy]
        uneven = [
            each._replace(load=21, expected=21) if each.worker_id == chosen else each
            for each in crowd
        ]
        assert choose(uneven, about(number)) == chosen


def choose_again(*loads: int) -> bool:
    """Whether a prefix finds its first choice, which has the first of these loads."""
    workers = idle(*(f"g-{number}.0" for number in range(len(loads))))
    favourite = choose(workers, request(0))
    others = [each.worker_id for each in workers if each.worker_id != favourite]
    names = [favourite, *others]
    busy = [Candidate(name, load, load) for name, load in zip(names, loads, strict=True)]
    return choose(busy, request(0)) == favourite


@pytest.mark.parametrize(
    ("loads", "is_found"),
    [
        ((1, 0), True),  # nearly idle
        ((1, 0, 0, 0, 0, 0, 0, 0), True),
        ((2, 0, 0, 0, 0, 0, 0, 0), False),
        ((2, 2, 2, 2), True),  # one more than the others does no harm
        ((3, 2, 2, 1), False),
        ((11, 10, 9, 9), True),  # with it 12, of 10 in the mean
        ((12, 9, 9, 9), False),
    ],
)
def test_affinity_bears_a_fifth_more_than_the_mean_or_one_request(
    loads: tuple[int, ...], is_found: bool
) -> None:
    assert choose_again(*loads) == is_found


def test_affinity_ends_where_the_load_is_too_uneven() -> None:
    workers = idle("g-0.0", "g-1.0")
    favourite = choose(workers, request(0))
    busy = [Candidate(each.worker_id, *[9 * (each.worker_id == favourite)] * 2) for each in workers]
    assert choose(busy, request(0)) != favourite


def test_short_prompts_go_to_the_least_busy_and_ties_are_random() -> None:
    workers = [Candidate("a.0", 2, 2), Candidate("b.0", 1, 1), Candidate("c.0", 1, 1)]
    chosen = {choose(workers, request(0, length=20)) for _ in range(100)}
    assert chosen == {"b.0", "c.0"}
