"""Forbid tokens of transcripts: those that are never wanted, and timestamps out of order.

Source: Radford et al., "Robust Speech Recognition via Large-Scale Weak Supervision" (2022), and the
rules of the code that they published with it.
"""

from collections.abc import Sequence as Rows

import torch

from headrace.protocol.speech import AudioInput
from headrace.workers.sequence.sequence import Sequence

_NOTHING = float("-inf")


def forbid_unheard(logits: torch.Tensor, sequences: Rows[Sequence]) -> None:
    """Set logits [rows, vocabulary] of forbidden next tokens to minus infinity, in place."""
    for row, sequence in enumerate(sequences):
        audio = sequence.request.audio
        assert audio is not None
        output = sequence.token_ids[sequence.num_prompt :]
        of_row = logits[row]
        _forbid(of_row, audio.suppressed_ids)
        if not output:
            _forbid(of_row, audio.first_suppressed_ids)
        if audio.timestamps is not None:
            _apply_timestamps(of_row, output, audio, sequence.request.sampling.eos_token_ids)


def _forbid(logits: torch.Tensor, token_ids: tuple[int, ...]) -> None:
    if token_ids:
        logits[list(token_ids)] = _NOTHING


def _apply_timestamps(
    logits: torch.Tensor, output: list[int], audio: AudioInput, ends: tuple[int, ...]
) -> None:
    """Leave the tokens that keep timestamps in pairs and in order."""
    rule = audio.timestamps
    assert rule is not None
    first = rule.first_id
    logits[first - 1] = _NOTHING  # the token of transcripts without timestamps
    if not output:  # a transcript begins with a timestamp
        logits[:first] = _NOTHING
        logits[first + rule.max_initial + 1 :] = _NOTHING
        return
    is_last, is_before = output[-1] >= first, len(output) < 2 or output[-2] >= first
    if is_last and is_before:  # a pair, or the first of all: text must follow
        logits[first:] = _NOTHING
    elif is_last:  # the end of a segment: another begins, or the transcript ends
        _leave_only(logits, first, ends)
    times = [token_id for token_id in output if token_id >= first]
    if times:
        # A segment may begin where the last ended, but not end where it begins.
        least = times[-1] + (0 if is_last and not is_before else 1)
        logits[first:least] = _NOTHING
    texts, of_times = logits[:first], logits[first:]
    if torch.logsumexp(of_times, dim=-1) > texts.max():
        logits[:first] = _NOTHING


def _leave_only(logits: torch.Tensor, first: int, ends: tuple[int, ...]) -> None:
    """Forbid the tokens before `first` but for those that end the output."""
    kept = logits[list(ends)].clone()
    logits[:first] = _NOTHING
    if ends:
        logits[list(ends)] = kept
