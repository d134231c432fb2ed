"""Both ways to find how unlikely a nucleus' tokens get must agree."""

import pytest
import torch

from headrace.workers.sampling.nucleus import floors_by_bisection, floors_by_sorting

SHARES = (1e-6, 0.1, 0.5, 0.9, 0.95, 0.999)


def rows(kind: str) -> torch.Tensor:
    """Logits [rows, vocabulary] with 0 as each row's greatest."""
    generator = torch.Generator().manual_seed(7)
    logits = torch.randn((len(SHARES) * 3, 3000), generator=generator)
    logits = {
        "peaked": logits * 6,
        "flat": logits * 0.01,
        "tied": (logits * 3).round(),
        "cut": torch.where(logits > 1, logits * 3, float("-inf")),
    }[kind]
    return logits - logits.amax(dim=1, keepdim=True)


@pytest.mark.parametrize("kind", ["peaked", "flat", "tied", "cut"])
def test_bisection_finds_what_sorting_finds(kind: str) -> None:
    logits = rows(kind)
    shares = torch.tensor(SHARES * 3).unsqueeze(1)
    found, expected = floors_by_bisection(logits, shares), floors_by_sorting(logits, shares)
    probabilities = logits.double().softmax(dim=-1)
    for row, (ours, theirs) in enumerate(zip(found, expected, strict=True)):
        if ours != theirs:  # by rounding one of them may take a token more, and no more than that
            between = (logits[row] >= torch.min(ours, theirs)) & (
                logits[row] < torch.max(ours, theirs)
            )
            assert torch.unique(logits[row][between]).numel() == 1
            mass = probabilities[row][logits[row] >= torch.max(ours, theirs)].sum()
            assert float(mass) == pytest.approx(float(shares[row]), abs=1e-5)
    assert (found == expected).float().mean() > 0.8


def test_bisection_takes_the_smallest_set_that_reaches_the_share() -> None:
    logits = torch.tensor([[0.5, 0.25, 0.125, 0.125]]).log()
    logits = (logits - logits.max()).repeat(5, 1)
    shares = torch.tensor([[0.01], [0.4], [0.6], [0.74], [0.8]])
    kept = (logits >= floors_by_bisection(logits, shares)).sum(dim=1)
    assert kept.tolist() == [1, 1, 2, 2, 4]  # the last two tie


def test_a_share_that_is_not_reached_cuts_nothing() -> None:
    logits = torch.tensor([[0.0, -1.0, float("-inf")], [0.0, float("nan"), -1.0]])
    found = floors_by_bisection(logits, torch.tensor([[1.5], [0.5]]))
    assert found.flatten().tolist() == [float("-inf")] * 2
