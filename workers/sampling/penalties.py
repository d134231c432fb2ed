"""Penalise tokens that have occurred, and forbid or force tokens.

Repetition divides positive logits and multiplies negative ones, for tokens of prompt and output
(Keskar et al., "CTRL", 2019). Presence and frequency subtract from the logits of output tokens,
once and by count, as OpenAI's API defines them.
"""

from collections.abc import Collection
from collections.abc import Sequence as Rows

import torch

from headrace.protocol.sampling import SamplingParams
from headrace.workers.sequence.sequence import SequenceView
from headrace.workers.sequence.thinking import forced_token
from headrace.workers.transfers import upload, upload_tensor


def apply_penalties(logits: torch.Tensor, rows: Rows[int], sequences: Rows[SequenceView]) -> None:
    """Penalise tokens in these rows of logits [rows, vocabulary], contiguous, in place.

    Only the columns of tokens that a row has are touched.
    """
    if not rows:
        return
    row_of, token_ids, in_output = _present(logits, rows, sequences)
    samplings = [sequences[row].request.sampling for row in rows]
    strengths = upload(
        [(s.repetition_penalty, s.frequency_penalty, s.presence_penalty) for s in samplings],
        logits.dtype,
        logits.device,
    )
    repetition, frequency, presence = strengths[row_of].unbind(dim=1)
    index = upload(rows, torch.long, logits.device)[row_of] * logits.shape[1] + token_ids
    flat = logits.view(-1)
    changed = flat.index_select(0, index)
    changed = torch.where(changed > 0, changed / repetition, changed * repetition)
    changed -= in_output * frequency
    changed -= (in_output > 0) * presence
    flat.index_copy_(0, index, changed)


def forbid_tokens(logits: torch.Tensor, rows: Rows[int], forbidden: Rows[Collection[int]]) -> None:
    """Make tokens impossible in these rows of logits [rows, vocabulary], in place.

    forbidden: the tokens of each of these rows. A row in which nothing else is possible stays as it
    is: its sequence continues with such a token.
    """
    size = logits.shape[1]
    pairs = [
        (index, row, token_id)
        for index, (row, token_ids) in enumerate(zip(rows, forbidden, strict=True))
        for token_id in token_ids
        if 0 <= token_id < size
    ]
    if not pairs:
        return
    columns = upload(list(zip(*pairs, strict=True)), torch.long, logits.device)
    index_of, row_of, token_ids = columns.unbind()
    before = logits[row_of, token_ids]
    logits[row_of, token_ids] = float("-inf")
    kept = logits
    if len(rows) < len(logits):
        kept = logits.index_select(0, upload(rows, torch.long, logits.device))
    emptied = kept.amax(dim=1) == float("-inf")
    logits[row_of, token_ids] = torch.where(emptied[index_of], before, float("-inf"))


def force_tokens(
    choices: torch.Tensor, samplings: Rows[SamplingParams], sequences: Rows[SequenceView]
) -> torch.Tensor:
    """Return the choices [rows], replaced where a spent thinking budget forces a token."""
    bounded = [row for row, sampling in enumerate(samplings) if sampling.thinking_budget]
    tokens = {row: forced_token(sequences[row]) for row in bounded}
    forced = [(row, token_id) for row, token_id in tokens.items() if token_id is not None]
    if not forced:
        return choices
    columns = upload(list(zip(*forced, strict=True)), torch.long, choices.device)
    return choices.index_copy(0, columns[0], columns[1].to(choices.dtype))


def end_token_ids(sequence: SequenceView) -> set[int]:
    """Return the tokens that would end a sequence."""
    sampling = sequence.request.sampling
    return {*sampling.eos_token_ids, *sampling.stop_token_ids}


def _present(
    logits: torch.Tensor, rows: Rows[int], sequences: Rows[SequenceView]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the distinct tokens of all these sequences, concatenated.

    Returns three tensors: the index in `rows`, the token id, and the count in the output.
    """
    counts = [sequences[row].token_counts() for row in rows]
    lengths = torch.tensor([len(count.token_ids) for count in counts])
    row_of = torch.repeat_interleave(torch.arange(len(rows)), lengths)
    # Copied by `cat` before the arrays grow again.
    token_ids = torch.cat([torch.frombuffer(c.token_ids, dtype=torch.long) for c in counts])
    in_output = torch.cat([torch.frombuffer(c.in_output, dtype=torch.float32) for c in counts])
    device = logits.device
    return (
        upload_tensor(row_of, device),
        upload_tensor(token_ids, device),
        upload_tensor(in_output.to(logits.dtype), device),
    )
