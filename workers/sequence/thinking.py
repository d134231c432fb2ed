"""Thinking budgets: the token that a text's next one must be, once its budget is spent.

A pure function of the output's tokens, so that it is the same with drafts, after a preemption and
on another worker.
"""

from headrace.protocol.common.thinking import ThinkingBlock
from headrace.workers.sequence.sequence import DraftedSequence, Sequence, SequenceView


def forced_token(text: SequenceView) -> int | None:
    """The only token that may follow; None where any may.

    Costs next to nothing before the budget is spent and after thinking is over.
    """
    budget = text.request.sampling.thinking_budget
    if budget is None or text.num_outputs < budget.tokens:
        return None
    if isinstance(text, DraftedSequence):
        block = _block(text.sequence)
        if not block.is_over:
            block = block.copy()
            block.feed(text.drafts)
    else:
        block = _block(text)
    return _next_of(block, budget.tokens)


def needs_next_token(sequence: Sequence) -> bool:
    """Whether the next token has to be known to tell what may follow it."""
    budget = sequence.request.sampling.thinking_budget
    if budget is None or sequence.num_outputs + 1 < budget.tokens:
        return False
    return not _block(sequence).is_over


def _next_of(block: ThinkingBlock, budget: int) -> int | None:
    if block.is_over:
        return None
    start = block.rest_of_start
    if start:  # begun, it is completed, so that the end mark does not fall into it
        return start[0] if block.is_open and block.num_seen >= budget else None
    return block.rest_of_end[0] if block.num_tokens >= budget else None


def _block(sequence: Sequence) -> ThinkingBlock:
    """Where the sequence's thinking is by now; its tokens must all be known, or thinking over."""
    block = sequence.thinking
    if block is None:
        budget = sequence.request.sampling.thinking_budget
        assert budget is not None
        block = ThinkingBlock(budget.start_ids, budget.end_ids, budget.is_open)
        sequence.thinking = block
    if not block.is_over:
        block.feed(sequence.token_ids[sequence.num_prompt + block.num_seen :])
    return block
