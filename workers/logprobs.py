"""Log probabilities as requests ask for them: the model's own, before penalties and temperature."""

from collections.abc import Sequence as Rows

import torch

from protocol.to_frontend import Logprobs
from workers.uploads import upload


class Described:
    """Log probabilities of one token of each row, and of the likeliest ones, on the device.

    logits: [rows, vocabulary]. token_ids: [rows]. numbers: how many of the likeliest, of each row.
    columns: what `read` needs on the host.
    """

    def __init__(self, logits: torch.Tensor, token_ids: torch.Tensor, numbers: Rows[int]) -> None:
        self._numbers = numbers
        logprobs = torch.log_softmax(logits.float(), dim=-1)
        chosen = logprobs.gather(1, token_ids.unsqueeze(1))
        ranks = (logprobs > chosen).sum(dim=-1) + 1
        largest = logprobs.topk(min(max(numbers), logprobs.shape[1]), dim=-1)
        self.columns = [token_ids, chosen.squeeze(1), ranks, largest.indices, largest.values]

    def read(self, columns: Rows[torch.Tensor]) -> list[Logprobs]:
        """What is known of each row, from the columns on the host."""
        values = zip(self._numbers, *(column.tolist() for column in columns), strict=True)
        return [
            Logprobs(token_id, logprob, rank, tuple(ids[:number]), tuple(likeliest[:number]))
            for number, token_id, logprob, rank, ids, likeliest in values
        ]


def describe(
    logits: torch.Tensor, wanted: Rows[tuple[int, int, int | None]]
) -> dict[int, Logprobs]:
    """Log probabilities by row of logits [rows, vocabulary].

    wanted: (row, token id, how many of the likeliest); rows with None are left out.
    """
    asked = [(row, token_id, top) for row, token_id, top in wanted if top is not None]
    if not asked:
        return {}
    rows, token_ids, tops = zip(*asked, strict=True)
    index = upload(rows, torch.long, logits.device)
    chosen = upload(token_ids, torch.long, logits.device)
    described = Described(logits[index], chosen, tops)
    return dict(zip(rows, described.read(described.columns), strict=True))
