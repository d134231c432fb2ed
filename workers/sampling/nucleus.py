"""How unlikely the tokens of a nucleus get (Holtzman et al., "The curious case of neural text
degeneration", 2020): the smallest set of the likeliest that have some share of all probability."""

import torch

_HEADS = (1024, 16384)  # likeliest tokens that are sorted first; a nucleus is seldom larger
_INFINITY_BITS = 0x7F800000  # of a 32-bit float


def nucleus_floors(logits: torch.Tensor, shares: torch.Tensor) -> torch.Tensor:
    """The smallest logit in each row's nucleus [rows, 1].

    logits: [rows, vocabulary], 32-bit, with 0 as each row's greatest. shares: [rows, 1]. Rows whose
    tokens do not reach their share, by rounding, get minus infinity, which cuts nothing.
    """
    if logits.device.type == "cpu":
        return floors_by_sorting(logits, shares)
    return floors_by_bisection(logits, shares)


def floors_by_sorting(logits: torch.Tensor, shares: torch.Tensor) -> torch.Tensor:
    """See `floors`. The likeliest few are sorted first; all only where these do not reach it.

    Which rows those are has to be known on the host.
    """
    size = logits.shape[1]
    heads = [*(head for head in _HEADS if head < size), size]
    least, reached = _floors_in_head(logits, shares, heads[0])
    rows = [row for row, done in enumerate(reached.tolist()) if not done]
    for head in heads[1:]:
        if not rows:
            break
        index = torch.tensor(rows)
        least[index], reached = _floors_in_head(logits[index], shares[index], head)
        rows = [row for row, done in zip(rows, reached.tolist(), strict=True) if not done]
    return least


def floors_by_bisection(logits: torch.Tensor, shares: torch.Tensor) -> torch.Tensor:
    """See `floors`. Reads all logits 31 times, and nothing is asked of the host.

    The bits of a positive float, read as an integer, grow with it: the integers are bisected.
    """
    bits = logits.abs().view(torch.int32)
    probabilities = torch.softmax(logits, dim=-1)
    low = torch.zeros_like(shares, dtype=torch.int32)
    high = torch.full_like(low, _INFINITY_BITS)
    for _ in range(_INFINITY_BITS.bit_length()):
        middle = low + (high - low) // 2
        inside = torch.where(bits <= middle, probabilities, 0.0)
        enough = inside.sum(dim=-1, keepdim=True, dtype=torch.float64) >= shares
        high = torch.where(enough, middle, high)
        low = torch.where(enough, low, (middle + 1).clamp_(max=_INFINITY_BITS))
    return -high.view(torch.float32)


def _floors_in_head(
    logits: torch.Tensor, shares: torch.Tensor, head: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The floors [rows, 1], and whether the `head` likeliest tokens hold the nucleus [rows]."""
    largest = logits.topk(head, dim=-1).values
    together = (largest - logits.logsumexp(dim=-1, keepdim=True)).double().exp_().cumsum_(dim=-1)
    count = (together < shares).sum(dim=-1, keepdim=True)
    reached = count < head
    least = largest.gather(1, count.clamp(max=head - 1))
    return torch.where(reached, least, float("-inf")), reached.squeeze(1)
