"""Apply grammar masks to logits."""

from collections.abc import Sequence as Rows
from functools import cache

import torch

from headrace.workers.sequence.sequence import SequenceView
from headrace.workers.transfers import upload, upload_tensor


def apply_masks(logits: torch.Tensor, sequences: Rows[SequenceView]) -> None:
    """Make the tokens that the sequences' grammars do not allow impossible, in place.

    logits: [rows, vocabulary], a row for each sequence. What is added to a row is looked up for
    eight tokens at a time, by the bytes of its mask: on a CPU eight times faster than filling by a
    mask of booleans.
    """
    masks = [
        (row, mask) for row, sequence in enumerate(sequences) if (mask := sequence.mask) is not None
    ]
    if not masks:
        return
    rows = masks[0][1].rows  # the same for all sequences of a step
    packed = torch.frombuffer(rows.bits(), dtype=torch.uint8).view(-1, rows.row_bytes)
    chosen = [mask.row for _, mask in masks]
    if chosen != list(range(len(packed))):
        packed = packed[chosen]
    size = logits.shape[1]
    used = upload_tensor(packed[:, : -(-size // 8)].contiguous(), logits.device)
    table = _table(logits.dtype, logits.device)
    added = table.index_select(0, used.view(-1).int()).view(len(used), -1)[:, :size]
    if len(masks) == len(logits):
        logits += added
    else:
        logits.index_add_(0, upload([row for row, _ in masks], torch.long, logits.device), added)


@cache
def _table(dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Return what each byte of a mask adds to the logits of its eight tokens [256, 8]."""
    values = torch.arange(256).unsqueeze(1)
    allowed = (values >> torch.arange(8)) & 1 == 1
    return torch.where(allowed, 0.0, float("-inf")).to(dtype).to(device)
