"""Force the tokens that end thinking once a thinking budget is spent.

A pure function of the output's tokens, so that it is the same with drafts, after a preemption and
on another worker.
"""

from headrace.protocol.common.thinking import ThinkingTracker
from headrace.workers.sequence.sequence import DraftedSequence, Sequence, SequenceView


def forced_token(sequence: SequenceView) -> int | None:
    """Return the only token that may follow, or None if any may.

    Costs next to nothing before the budget is spent and after thinking is over.
    """
    budget = sequence.request.sampling.thinking_budget
    if budget is None or sequence.num_outputs < budget.tokens:
        return None
    if isinstance(sequence, DraftedSequence):
        block = _block(sequence.sequence)
        if not block.is_over:
            block = block.copy()
            block.feed(sequence.drafts)
    else:
        block = _block(sequence)
    return _next_of(block, budget.tokens)


def needs_next_token(sequence: Sequence) -> bool:
    """Return whether the next token must be known to tell what may follow it."""
    budget = sequence.request.sampling.thinking_budget
    if budget is None or sequence.num_outputs + 1 < budget.tokens:
        return False
    return not _block(sequence).is_over


def _next_of(block: ThinkingTracker, budget: int) -> int | None:
    if block.is_over:
        return None
    start = block.missing_start
    if start:  # begun, it is completed, so that the end delimiter does not fall into it
        return start[0] if block.is_open and block.num_fed >= budget else None
    return block.missing_end[0] if block.num_tokens >= budget else None


def _block(sequence: Sequence) -> ThinkingTracker:
    """Return where the sequence's thinking is by now.

    Its tokens must all be known, unless thinking is over.
    """
    block = sequence.thinking
    if block is None:
        budget = sequence.request.sampling.thinking_budget
        assert budget is not None
        block = ThinkingTracker(budget.start_ids, budget.end_ids, budget.is_open)
        sequence.thinking = block
    if not block.is_over:
        block.feed(sequence.token_ids[sequence.num_prompt + block.num_fed :])
    return block
