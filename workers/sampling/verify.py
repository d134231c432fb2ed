"""Verify drafts by sampling after each of them.

Speculative decoding (Leviathan, Kalman and Matias, "Fast inference from transformers via
speculative decoding", 2023; Chen et al., 2023) runs several drafted tokens in one step and accepts
those that the model itself might have sampled, so that the output's distribution stays the model's.
Their rule accepts a draft x with probability min(1, p(x) / q(x)) and otherwise samples from what p
has over q. For a draft that is a fixed guess, q is 1 at x: it is accepted with probability p(x),
else a token other than x is sampled in proportion to p.

The same is achieved here by sampling from p itself. At each position a token is sampled with that
position's own noise, from the logits, penalties and limits that apply after the drafts before it,
and the draft is accepted if it equals the sampled token. It does, with probability p(x); if not,
the sampled token is one of the others, in proportion to p. Nothing else decides, so the token at
each position is the very one that is sampled there without speculation: the noise is a pure
function of seed and position, and a position is only reached if all drafts before it were accepted.
Greedy sampling is the case without noise. Replays and preemptions need no special care. (Logits of
one step and of several can differ by the rounding of their dtype, as between any two batches.)
"""

from collections.abc import Sequence as Items
from dataclasses import replace

from headrace.workers.sequence.sequence import Chunk, ChunkResult, DraftedSequence, SequenceView


def views_to_sample(chunk: Chunk) -> list[SequenceView]:
    """Return what a token is sampled after: the sequence itself, then with each draft more."""
    if not chunk.drafts:
        return [chunk.sequence]
    ends = range(1, len(chunk.drafts) + 1)
    return [chunk.sequence, *(DraftedSequence(chunk.sequence, chunk.drafts[:end]) for end in ends)]


def verify_drafts(chunk: Chunk, results: Items[ChunkResult]) -> ChunkResult:
    """Return the chunk's result, from those at each of `views_to_sample`.

    A draft followed by an error is rejected: the next step meets the error again, once the tokens
    before it have been sent.
    """
    accepted = []
    for draft, result, following in zip(chunk.drafts, results, results[1:], strict=False):
        if result.token_id != draft or following.error is not None:
            break
        accepted.append(following)
    return replace(results[0], accepted_drafts=tuple(accepted)) if accepted else results[0]
