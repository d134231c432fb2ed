"""Find the smallest logit of each row's nucleus, for top-p sampling.

The nucleus (Holtzman et al., "The curious case of neural text degeneration", 2020) is the smallest
set of the most likely tokens that have some share of all probability.
"""

import torch

_HEADS = (1024, 16384)  # most likely tokens that are sorted first; few nuclei are larger
_INFINITY_BITS = 0x7F800000  # of a 32-bit float


def nucleus_floors(logits: torch.Tensor, shares: torch.Tensor) -> torch.Tensor:
    """Return the smallest logit in each row's nucleus [rows, 1].

    logits: [rows, vocabulary], 32-bit, with 0 as each row's greatest. shares: [rows, 1]. Rows whose
    tokens do not reach their share, by rounding, get minus infinity, which cuts nothing.
    """
    if logits.device.type == "cpu":
        return floors_by_sorting(logits, shares)
    return floors_by_bisection(logits, shares)


def floors_by_sorting(logits: torch.Tensor, shares: torch.Tensor) -> torch.Tensor:
    """Compute `nucleus_floors` by sorting the most likely few, and more only where needed.

    Waits for the device: which rows those are must be known on the host.
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
    """Compute `nucleus_floors` by reading all logits 31 times, without waiting for the device.

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
    """Return the floors, if the nucleus is in the `head` most likely tokens.

    Returns floors [rows, 1], and whether the nucleus is in there [rows].
    """
    largest = logits.topk(head, dim=-1).values
    together = (largest - logits.logsumexp(dim=-1, keepdim=True)).double().exp_().cumsum_(dim=-1)
    count = (together < shares).sum(dim=-1, keepdim=True)
    reached = count < head
    least = largest.gather(1, count.clamp(max=head - 1))
    return torch.where(reached, least, float("-inf")), reached.squeeze(1)
