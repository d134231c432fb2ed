"""Log probabilities as requests ask for them: the model's own, before penalties and temperature."""

from collections.abc import Sequence as Rows

import torch

from protocol.to_frontend import Logprobs


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
    index = torch.tensor(rows, device=logits.device)
    logprobs = torch.log_softmax(logits[index].float(), dim=-1)
    chosen = logprobs.gather(1, torch.tensor(token_ids, device=logits.device).unsqueeze(1))
    ranks = (logprobs > chosen).sum(dim=-1) + 1
    largest = logprobs.topk(min(max(tops), logprobs.shape[1]), dim=-1)
    columns = (chosen.squeeze(1), ranks, largest.indices, largest.values)
    values = zip(asked, *(column.tolist() for column in columns), strict=True)
    return {
        row: Logprobs(token_id, logprob, rank, tuple(ids[:top]), tuple(likeliest[:top]))
        for (row, token_id, top), logprob, rank, ids, likeliest in values
    }
