"""Which drafted tokens stand, and what follows them.

Speculative decoding (Leviathan, Kalman and Matias, "Fast inference from transformers via
speculative decoding", 2023; Chen et al., 2023) runs several guessed tokens in one step and keeps
those that the model itself might have chosen, so that the text's distribution stays the model's.
Their rule accepts a draft x with probability min(1, p(x) / q(x)) and otherwise draws from what p
has over q. For a draft that is a fixed guess, q is 1 at x: it is accepted with probability p(x),
else a token other than x is drawn in proportion to p.

Here the same is had by drawing from p itself. At each place a token is drawn with that place's own
noise, from the logits, penalties and limits that hold after the drafts before it, and the draft
stands if it is the token drawn. It is, with probability p(x); if not, the token drawn is one of the
others, in proportion to p. Nothing else decides, so the token at each place is the very one that is
drawn there without speculation: the noise is a pure function of seed and place, and the place is
only reached if all drafts before it are the text's own tokens. Greedy texts are the case without
noise. Replays and preemptions go on as ever. (Logits of one step and of several can differ by the
rounding of their dtype, as between any two batches.)
"""

from collections.abc import Sequence as Items
from dataclasses import replace

from headrace.workers.sequence.sequence import Chunk, ChunkResult, DraftedSequence, SequenceView


def views_to_sample(chunk: Chunk) -> list[SequenceView]:
    """What is sampled after: the sequence itself, then with each draft more."""
    if not chunk.drafts:
        return [chunk.sequence]
    ends = range(1, len(chunk.drafts) + 1)
    return [chunk.sequence, *(DraftedSequence(chunk.sequence, chunk.drafts[:end]) for end in ends)]


def verify_drafts(chunk: Chunk, results: Items[ChunkResult]) -> ChunkResult:
    """One result of the results at each of `views_to_sample`.

    A place that has an error is as if its draft had been wrong: the next step meets the error
    again, with the text before it sent.
    """
    kept = []
    for draft, result, following in zip(chunk.drafts, results, results[1:], strict=False):
        if result.token_id != draft or following.error is not None:
            break
        kept.append(following)
    return replace(results[0], accepted_drafts=tuple(kept)) if kept else results[0]
