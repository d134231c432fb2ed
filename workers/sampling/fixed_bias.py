"""Add what a request adds to its logits at each step, whatever its output.

That is its biases, and minus infinity for all tokens but the allowed ones.
"""

from collections.abc import Sequence as Rows

import torch

from headrace.protocol.sampling import SamplingParams
from headrace.workers.sequence.sequence import DraftedSequence, SequenceView
from headrace.workers.transfers import upload


def has_fixed_bias(sampling: SamplingParams) -> bool:
    """Return whether `add_fixed_bias` would change a row."""
    return bool(sampling.biased_token_ids or sampling.allowed_token_ids)


def add_fixed_bias(logits: torch.Tensor, rows: Rows[int], sequences: Rows[SequenceView]) -> None:
    """Add to these rows of logits [rows, vocabulary] in place."""
    for row in rows:
        view = sequences[row]
        owner = view.sequence if isinstance(view, DraftedSequence) else view
        if owner.fixed_bias is None:  # made once, as there can be as many numbers as tokens
            owner.fixed_bias = _fixed_bias(owner.request.sampling, logits)
        logits[row] += owner.fixed_bias


def _fixed_bias(sampling: SamplingParams, logits: torch.Tensor) -> torch.Tensor:
    """Return the bias of each logit [vocabulary]."""
    size, device = logits.shape[1], logits.device
    bias = torch.zeros(size, dtype=logits.dtype, device=device)
    if sampling.allowed_token_ids:
        bias.fill_(float("-inf"))
        bias[upload(sampling.allowed_token_ids, torch.long, device)] = 0.0
    if sampling.biased_token_ids:
        index = upload(sampling.biased_token_ids, torch.long, device)
        bias[index] += upload(sampling.biases, logits.dtype, device)
    return bias
