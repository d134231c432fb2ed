"""The share of the cores that a worker takes by the weight of its group."""

from pathlib import Path

import pytest

from headrace.protocol.config import GroupConfig, PoolConfig
from headrace.workers.process.cpu_share import niceness_of

NOWHERE = Path("/nonexistent")


def pool_of(*weights: int) -> PoolConfig:
    groups = [
        GroupConfig(
            name=f"g{number}",
            model="m",
            model_path=NOWHERE,
            text_path=NOWHERE,
            served_names=(f"m{number}",),
            cpu_weight=weight,
        )
        for number, weight in enumerate(weights)
    ]
    return PoolConfig(run_dir=NOWHERE, groups=tuple(groups))


@pytest.mark.parametrize(
    ("weights", "niceness"),
    [
        ((25,), [0]),  # nothing to share with
        ((100, 100), [0, 0]),
        ((100, 25), [0, 6]),
        ((50, 200, 100), [6, 0, 3]),
        ((10_000, 1), [0, 19]),  # as nice as Linux has it
    ],
)
def test_each_step_of_niceness_is_a_quarter_less(
    weights: tuple[int, ...], niceness: list[int]
) -> None:
    pool = pool_of(*weights)
    assert [niceness_of(group, pool) for group in pool.groups] == niceness
