"""Seeds for requests that bring none."""

from headrace.frontend.generation.seeds import Seeds


def sequence(seed: int | None) -> list[int]:
    seeds = Seeds(seed)
    return [seeds.next() for _ in range(50)]


def test_operators_seed_gives_the_same_sequence_after_each_start() -> None:
    assert sequence(5) == sequence(5)
    assert sequence(5) != sequence(6)
    assert len(set(sequence(5))) == 50


def test_without_one_nothing_repeats_and_all_fit_63_bits() -> None:
    first, second = sequence(None), sequence(None)
    assert len(set(first + second)) == 100
    assert all(0 <= seed < 2**63 for seed in first)
