"""The sampling parameters of a request."""

from headrace.protocol.codec import Message
from headrace.protocol.common.reasoning_text import ReasoningMarks


class ThinkingBudget(Message):
    """A limit on reasoning: after `tokens` of it, the first end is forced.

    tokens: reasoning tokens at most, without delimiters (see headrace.protocol.common.thinking).
    marks: the texts around reasoning; no starts where the prompt ends with one.
    start_ids, end_ids: the tokens in which the first start and the first end are forced.
    is_open: whether the output begins with reasoning, with or without a start.
    """

    tokens: int
    marks: ReasoningMarks
    start_ids: tuple[int, ...]
    end_ids: tuple[int, ...]
    is_open: bool


class RepetitionRule(Message):
    """Ends an output that ends with one pattern of tokens, `min_count` times in a row.

    min_pattern_size, max_pattern_size: tokens in such a pattern, both at least 1.
    """

    min_pattern_size: int
    max_pattern_size: int
    min_count: int


class SamplingParams(Message):
    """Everything that a worker needs to sample tokens; the frontend has validated it.

    seed: 64 bits; the noise at a position is a pure function of seed and position, so that a
        request continues alike on any worker and in any batch.
    max_tokens: output tokens at most.
    temperature: 0 is greedy.
    top_k: 0 is off. top_p: 1 is off. min_p: 0 is off.
    eos_token_ids: end the output with reason "stop" (empty if EOS is ignored).
    stop_token_ids: also end the output, and are returned as the stop reason.
    min_tokens: neither kind can be sampled before this many output tokens.
    logprobs: log probabilities of each output token and of the N likeliest (None: none).
    prompt_logprobs: the same for the tokens of the prompt.
    thinking_budget: None: reasoning is not limited.
    biased_token_ids, biases: added to the logits of these tokens, before everything else.
    allowed_token_ids: no other token can be sampled; empty: any can.
    bad_words: sequences of tokens that the output must not hold: the last token of one cannot be
        sampled after the tokens before it.
    logprob_token_ids: log probabilities are returned of these tokens instead of the likeliest ones.
    repetition_detection: None: outputs may repeat themselves.
    """

    seed: int
    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    eos_token_ids: tuple[int, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    min_tokens: int = 0
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    thinking_budget: ThinkingBudget | None = None
    biased_token_ids: tuple[int, ...] = ()
    biases: tuple[float, ...] = ()
    allowed_token_ids: tuple[int, ...] = ()
    bad_words: tuple[tuple[int, ...], ...] = ()
    logprob_token_ids: tuple[int, ...] = ()
    repetition_detection: RepetitionRule | None = None
