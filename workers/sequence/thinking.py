"""Force the tokens that end thinking once a thinking budget is spent.

A pure function of the output's tokens and their texts, so that it is the same with drafts, after a
preemption and on another worker.
"""

from headrace.protocol.common.thinking import ThinkingTracker
from headrace.protocol.sampling import ThinkingBudget
from headrace.workers.sequence.sequence import DraftedSequence, Sequence, SequenceView
from headrace.workers.sequence.token_texts import TokenTexts


def forced_token(sequence: SequenceView) -> int | None:
    """Return the only token that may follow, or None if any may.

    Costs next to nothing before the budget is spent and after thinking is over.
    """
    budget = sequence.request.sampling.thinking_budget
    if budget is None or sequence.num_outputs < budget.tokens:
        return None
    whole = sequence.sequence if isinstance(sequence, DraftedSequence) else sequence
    block = _block(whole)
    if isinstance(sequence, DraftedSequence) and not block.is_over:
        block = block.copy()
        block.feed(sequence.drafts)
    assert whole.texts is not None
    return _next_of(block, budget, whole.texts)


def needs_next_token(sequence: Sequence) -> bool:
    """Return whether the next token must be known to tell what may follow it."""
    budget = sequence.request.sampling.thinking_budget
    if budget is None or sequence.num_outputs + 1 < budget.tokens:
        return False
    return not _block(sequence).is_over


def _next_of(block: ThinkingTracker, budget: ThinkingBudget, texts: TokenTexts) -> int | None:
    if block.is_over:
        return None
    start = block.missing_start
    if start:  # begun, it is completed, so that the end does not fall into it
        is_due = block.is_open and block.num_fed >= budget.tokens
        return texts.next_of(start, budget.start_ids) if is_due else None
    before_call = block.num_before_call
    if block.num_tokens < budget.tokens or (
        before_call is not None and before_call < budget.tokens
    ):
        return None  # a call that begins within the budget may turn out to be one
    return texts.next_of(block.missing_end, budget.end_ids)


def _block(sequence: Sequence) -> ThinkingTracker:
    """Return where the sequence's thinking is by now.

    Its tokens must all be known, unless thinking is over.
    """
    block = sequence.thinking
    if block is None:
        budget, texts = sequence.request.sampling.thinking_budget, sequence.texts
        assert budget is not None
        assert texts is not None
        block = ThinkingTracker(budget.marks.as_bytes(), budget.is_open, texts.text)
        sequence.thinking = block
    if not block.is_over:
        block.feed(sequence.token_ids[sequence.num_prompt + block.num_fed :])
    return block
