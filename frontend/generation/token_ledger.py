"""Reserve the tokens of a request within its key's limit, and count those that it used."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from headrace.frontend.context import Context
from headrace.frontend.generation.choice import Choice
from headrace.frontend.middleware import request_scope
from headrace.frontend.middleware.key_limits import note_refusal
from headrace.frontend.rate_limits.rate_limits import Demand, RateLimited, Reservation


class TokenLedger:
    """The tokens of one request. choices: of all its prompts, once they are there."""

    def __init__(self, prompt_tokens: Sequence[int], uses_beam_search: bool) -> None:
        """prompt_tokens: of each prompt."""
        self._prompt_tokens, self._uses_beam_search = prompt_tokens, uses_beam_search
        self.choices: Sequence[Choice] = ()

    def demand(
        self, max_tokens: Sequence[int], choices: int, context_size: int, *, discard: bool
    ) -> Demand:
        """Return the tokens that the request asks for.

        max_tokens: of each choice of each prompt. choices: of each prompt.
        discard: whether there is no output.
        """
        pairs = zip(max_tokens, self._prompt_tokens, strict=True)
        return Demand(
            prompt_tokens=sum(self._prompt_tokens),
            choices=choices * len(max_tokens),
            output_tokens=0 if discard else choices * sum(max_tokens),
            is_bounded=all(output < context_size - prompt for output, prompt in pairs),
        )

    def used(self, at_end: bool) -> int | None:
        """Return the tokens that were used; None if that is not known.

        at_end: whether the request has ended, be it before its last token.
        """
        has_ended = bool(self.choices) and all(choice.finished for choice in self.choices)
        begun = {choice.prompt for choice in self.choices if choice.has_begun}
        # Nobody has counted what a search had generated that was cut.
        if not (has_ended or at_end) or (self._uses_beam_search and not begun):
            return None
        prompt_tokens = sum(self._prompt_tokens[prompt] for prompt in begun)
        return prompt_tokens + sum(choice.completion_tokens for choice in self.choices)


def reserve_tokens(
    context: Context, demand: Demand, used: Callable[[bool], int | None]
) -> Reservation | None:
    """Reserve the tokens of a request; None if its key has no limit. used: see Reservation.

    Raises RateLimited, or BadRequest if the request is larger than the limit.
    """
    key = context.principal.key
    if key is None:
        return None
    scope = request_scope.current_or_none()
    is_line = scope is not None and scope.is_batch_line
    if scope is not None:
        demand = replace(demand, before=scope.asked_tokens)
        scope.asked_tokens = demand.least
    try:
        reservation = context.rate_limits.reserve(key, demand, used, is_line)
    except RateLimited as error:
        note_refusal(context, error)
        raise
    if reservation is None or scope is None:
        return reservation
    settle = reservation.settle

    def settle_first() -> dict[str, str]:
        """Let the headers tell what is left after an answer that has ended."""
        settle(at_end=False)
        return {}

    scope.headers.insert(0, settle_first)
    return reservation
