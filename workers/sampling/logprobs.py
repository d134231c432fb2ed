"""Compute log probabilities for requests: the model's own, before penalties and temperature."""

from collections.abc import Sequence as Rows

import torch

from headrace.protocol.to_frontend import Logprobs
from headrace.workers.transfers import upload

# How many of the most likely tokens are requested, or which tokens.
Wanted = int | tuple[int, ...]


class PositionLogprobs:
    """Log probabilities of one token of each row, and of others, on the device.

    logits: [rows, vocabulary]. token_ids: [rows]. wanted: the others of each row.
    columns: what `read` needs on the host.
    """

    def __init__(self, logits: torch.Tensor, token_ids: torch.Tensor, wanted: Rows[Wanted]) -> None:
        self._wanted = wanted
        logprobs = torch.log_softmax(logits.float(), dim=-1)
        chosen = logprobs.gather(1, token_ids.unsqueeze(1))
        ranks = (logprobs > chosen).sum(dim=-1) + 1
        number = max((count for count in wanted if isinstance(count, int)), default=0)
        largest = logprobs.topk(min(number, logprobs.shape[1]), dim=-1)
        self.columns = [token_ids, chosen.squeeze(1), ranks, largest.indices, largest.values]
        most = max(0 if isinstance(ids, int) else len(ids) for ids in wanted)
        if most:
            padded = [_padded(ids, most) for ids in wanted]
            requested = upload(padded, torch.long, logits.device)
            self.columns.append(logprobs.gather(1, requested))

    def read(self, columns: Rows[torch.Tensor]) -> list[Logprobs]:
        """Return the log probabilities of each row, from the columns on the host."""
        rows = zip(self._wanted, *(column.tolist() for column in columns), strict=True)
        return [_logprobs(*row) for row in rows]


def _padded(wanted: Wanted, length: int) -> list[int]:
    ids = [] if isinstance(wanted, int) else [*wanted]
    return ids + [0] * (length - len(ids))


def _logprobs(
    wanted: Wanted,
    token_id: int,
    logprob: float,
    rank: int,
    most_likely: list[int],
    values: list[float],
    requested: Rows[float] = (),
) -> Logprobs:
    if isinstance(wanted, int):
        return Logprobs(
            token_id, logprob, rank, tuple(most_likely[:wanted]), tuple(values[:wanted])
        )
    return Logprobs(token_id, logprob, rank, wanted, tuple(requested[: len(wanted)]))


def compute_logprobs(
    logits: torch.Tensor, wanted: Rows[tuple[int, int, int | None]]
) -> dict[int, Logprobs]:
    """Return log probabilities by row of logits [rows, vocabulary].

    wanted: (row, token id, how many of the most likely); rows with None are left out.
    """
    requested = [(row, token_id, top) for row, token_id, top in wanted if top is not None]
    if not requested:
        return {}
    rows, token_ids, tops = zip(*requested, strict=True)
    index = upload(rows, torch.long, logits.device)
    chosen = upload(token_ids, torch.long, logits.device)
    described = PositionLogprobs(logits[index], chosen, tops)
    return dict(zip(rows, described.read(described.columns), strict=True))
