"""Penalties on tokens that are there already, and tokens that are forbidden for now.

Repetition divides positive logits and multiplies negative ones, for tokens of prompt and output
(Keskar et al., "CTRL", 2019). Presence and frequency subtract from the logits of output tokens,
once and by count, as OpenAI's API defines them.
"""

from collections.abc import Sequence as Rows

import torch

from workers.sequence import Sequence


def penalise(logits: torch.Tensor, rows: Rows[int], sequences: Rows[Sequence]) -> None:
    """Change these rows of logits [rows, vocabulary] in place."""
    if not rows:
        return
    some = [sequences[row] for row in rows]
    index = torch.tensor(rows, device=logits.device)
    changed = logits[index]
    outputs = _counts(changed, [s.token_ids[s.num_prompt :] for s in some])
    prompts = _counts(changed, [s.token_ids[: s.num_prompt] for s in some])
    samplings = [sequence.request.sampling for sequence in some]
    factor = _column([s.repetition_penalty for s in samplings], changed)
    seen = (outputs > 0) | (prompts > 0)
    repeated = torch.where(changed > 0, changed / factor, changed * factor)
    changed = torch.where(seen, repeated, changed)
    changed -= outputs * _column([s.frequency_penalty for s in samplings], changed)
    changed -= (outputs > 0) * _column([s.presence_penalty for s in samplings], changed)
    logits[index] = changed


def forbid(logits: torch.Tensor, rows: Rows[int], sequences: Rows[Sequence]) -> None:
    """Make the tokens that would end these rows' texts impossible, in place."""
    size = logits.shape[1]
    pairs = [
        (row, token_id)
        for row in rows
        for token_id in _ends(sequences[row])
        if 0 <= token_id < size
    ]
    if pairs:
        index = torch.tensor(pairs, device=logits.device)
        logits[index[:, 0], index[:, 1]] = float("-inf")


def _ends(sequence: Sequence) -> tuple[int, ...]:
    sampling = sequence.request.sampling
    return sampling.eos_token_ids + sampling.stop_token_ids


def _counts(like: torch.Tensor, token_ids: list[list[int]]) -> torch.Tensor:
    """How often each token is in each list, [rows, vocabulary] as floats."""
    rows = [row for row, some in enumerate(token_ids) for _ in some]
    flat = [token_id for some in token_ids for token_id in some]
    index = torch.tensor([rows, flat], dtype=torch.long, device=like.device)
    ones = torch.ones(len(flat), dtype=like.dtype, device=like.device)
    return torch.zeros_like(like).index_put_((index[0], index[1]), ones, accumulate=True)


def _column(values: list[float], like: torch.Tensor) -> torch.Tensor:
    return torch.tensor(values, dtype=like.dtype, device=like.device).unsqueeze(1)
