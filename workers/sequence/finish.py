"""Decide whether a sequence ends with its last token, and why."""

from typing import Literal, NamedTuple

from headrace.workers.sequence.sequence import Sequence

FinishReason = Literal["stop", "length", "repetition", "complete", "rejected", "error"]


class Finish(NamedTuple):
    """The reason why a sequence ends, and the one of its request's stop_token_ids that ended it."""

    reason: FinishReason
    stop_token_id: int | None = None


def check_finish(sequence: Sequence, max_len: int) -> Finish | None:
    """Return why the sequence ends with its last token, or None if it continues.

    max_len: the most tokens of one sequence, prompt and output together.
    """
    sampling = sequence.request.sampling
    token_id = sequence.token_ids[-1]
    if sequence.num_outputs >= sampling.min_tokens:
        if token_id in sampling.eos_token_ids:
            return Finish("stop")
        if token_id in sampling.stop_token_ids:
            return Finish("stop", token_id)
    if sequence.grammar is not None and sequence.grammar.is_complete:
        return Finish("complete")
    if sequence.num_outputs >= sampling.max_tokens or len(sequence.token_ids) >= max_len:
        return Finish("length")
    # Followed from the first token on, so that no step has to catch up with a long output.
    if sequence.repeats() and sequence.num_outputs >= sampling.min_tokens:
        return Finish("repetition")
    return None
