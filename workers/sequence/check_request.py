"""Check requests as they arrive. The frontend checks them, too; the worker does not rely on it."""

import math
from collections.abc import Container, Sequence

from headrace.protocol.common.reasoning_text import MAX_MARK_CHARS, MAX_MARKS
from headrace.protocol.grammar import MAX_GRAMMAR_BYTES, Grammar
from headrace.protocol.sampling import RepetitionRule, SamplingParams
from headrace.protocol.to_worker import Generate
from headrace.workers.errors import RejectedByEngine

_LARGEST_SEED = 2**64 - 1
# Beyond these, no output is better and logits leave the range of 32-bit floats.
_HOTTEST = 1e4
_REPETITION_PENALTIES = (1e-3, 1e3)
_LARGEST_PENALTY = 1e4
_LARGEST_BIAS = 100.0
_LONGEST_PATTERN = 1024


def check_request(
    request: Generate,
    running_ids: Container[str],
    vocab_size: int,
    max_len: int,
    adapter_ids: Container[str] | None = None,
) -> None:
    """Raise RejectedByEngine, naming the field, unless the engine can run the request to its end.

    max_len: the most tokens of prompt and output together.
    adapter_ids: the loaded adapters; None: the engine supports none.
    """
    if request.request_id in running_ids:
        _reject("request_id is in use")
    if not request.prompt_token_ids:
        _reject("prompt_token_ids is empty")
    _check_ids("prompt_token_ids", request.prompt_token_ids, vocab_size)
    _check_ids("output_token_ids", request.output_token_ids, vocab_size)
    _check_lengths(request, max_len)
    check_adapter(request.adapter, adapter_ids)
    if request.grammar is not None:
        _check_grammar(request.grammar)
    _check_sampling(request.sampling, vocab_size)
    _check_thinking(request.sampling, vocab_size)
    _check_token_ids(request.sampling, vocab_size)
    if request.sampling.repetition_detection is not None:
        _check_repetition(request.sampling.repetition_detection)


def _check_ids(name: str, token_ids: tuple[int, ...], vocab_size: int) -> None:
    if token_ids and not (min(token_ids) >= 0 and max(token_ids) < vocab_size):
        _reject(f"{name} has an id that is not from 0 to {vocab_size - 1}")


def _check_lengths(request: Generate, max_len: int) -> None:
    length = len(request.prompt_token_ids) + len(request.output_token_ids)
    if length >= max_len:
        _reject(f"prompt_token_ids: {length} tokens leave no room in a context of {max_len}")
    if request.sampling.max_tokens <= len(request.output_token_ids):
        _reject("max_tokens must be more than the output tokens so far")


def check_adapter(adapter: str, adapter_ids: Container[str] | None) -> None:
    """Reject a request whose adapter is not loaded.

    If adapters can be loaded, another worker may have this one already.
    """
    if adapter and (adapter_ids is None or adapter not in adapter_ids):
        raise RejectedByEngine("adapter is not loaded", retry_elsewhere=adapter_ids is not None)


def _check_grammar(grammar: Grammar) -> None:
    if len(grammar.text.encode(errors="replace")) > MAX_GRAMMAR_BYTES:
        _reject(f"grammar must not be longer than {MAX_GRAMMAR_BYTES} bytes")
    _check_marks("grammar", grammar.after)


def _check_sampling(sampling: SamplingParams, vocab_size: int) -> None:
    ranges: tuple[tuple[str, float, float, float], ...] = (
        ("seed", sampling.seed, 0, _LARGEST_SEED),
        ("temperature", sampling.temperature, 0.0, _HOTTEST),
        ("top_p", sampling.top_p, 0.0, 1.0),
        ("top_k", sampling.top_k, 0, math.inf),
        ("min_p", sampling.min_p, 0.0, 1.0),
        ("repetition_penalty", sampling.repetition_penalty, *_REPETITION_PENALTIES),
        ("presence_penalty", sampling.presence_penalty, -_LARGEST_PENALTY, _LARGEST_PENALTY),
        ("frequency_penalty", sampling.frequency_penalty, -_LARGEST_PENALTY, _LARGEST_PENALTY),
        ("min_tokens", sampling.min_tokens, 0, math.inf),
        ("logprobs", sampling.logprobs or 0, 0, vocab_size),
        ("prompt_logprobs", sampling.prompt_logprobs or 0, 0, vocab_size),
    )
    for name, value, lowest, highest in ranges:
        if not lowest <= value <= highest:  # a NaN is in no range
            limit = f"at least {lowest}" if highest == math.inf else f"from {lowest} to {highest}"
            _reject(f"{name} must be {limit}")


def _check_thinking(sampling: SamplingParams, vocab_size: int) -> None:
    budget = sampling.thinking_budget
    if budget is None:
        return
    if budget.tokens < 0:
        _reject("thinking_budget must be at least 0")
    marks = budget.marks
    if not marks.ends or not budget.end_ids:
        _reject("thinking_budget has no end delimiter")
    if bool(marks.starts) != bool(budget.start_ids):
        _reject("thinking_budget must have the tokens of its start delimiter")
    shapes = [shape for call in marks.calls for shape in call.shapes]
    calls = [call.mark for call in marks.calls]
    _check_marks("thinking_budget", [*marks.starts, *marks.ends, *calls, *shapes])
    for token_ids in (budget.start_ids, budget.end_ids):
        _check_ids("thinking_budget", token_ids, vocab_size)


def _check_marks(field: str, texts: Sequence[str]) -> None:
    if len(texts) > MAX_MARKS:
        _reject(f"{field} has more than {MAX_MARKS} delimiters")
    if not all(0 < len(text) <= MAX_MARK_CHARS for text in texts):
        _reject(f"{field}: a delimiter must have 1 to {MAX_MARK_CHARS} characters")


def _check_token_ids(sampling: SamplingParams, vocab_size: int) -> None:
    """Check the tokens that a request names by id."""
    _check_ids("logit_bias", sampling.biased_token_ids, vocab_size)
    if len(sampling.biases) != len(sampling.biased_token_ids):
        _reject("logit_bias must have one value for each token")
    if not all(-_LARGEST_BIAS <= bias <= _LARGEST_BIAS for bias in sampling.biases):
        _reject(f"logit_bias must be from {-_LARGEST_BIAS} to {_LARGEST_BIAS}")
    _check_ids("allowed_token_ids", sampling.allowed_token_ids, vocab_size)
    _check_ids("logprob_token_ids", sampling.logprob_token_ids, vocab_size)
    for word in sampling.bad_words:
        if not word:
            _reject("bad_words must not be empty")
        _check_ids("bad_words", word, vocab_size)


def _check_repetition(params: RepetitionRule) -> None:
    if not 1 <= params.min_pattern_size <= params.max_pattern_size <= _LONGEST_PATTERN:
        _reject(f"repetition_detection must have pattern sizes from 1 to {_LONGEST_PATTERN}")
    if params.min_count < 2:
        _reject("repetition_detection must have a min_count of at least 2")


def _reject(reason: str) -> None:
    raise RejectedByEngine(reason, retry_elsewhere=False)
