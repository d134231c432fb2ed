"""Plan how the reasoning of an answer begins and ends."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

from headrace.frontend.chat.message import MessageReader
from headrace.frontend.chat.reasoning.delimiters import ReasoningDelimiters
from headrace.frontend.chat.reasoning.reader import ReasoningReader
from headrace.frontend.context import ServedModel
from headrace.frontend.errors import BadRequest
from headrace.frontend.generation.start_generation import Prompt
from headrace.frontend.schemas.chat import ChatCompletionRequest
from headrace.frontend.schemas.generation import GenerationRequest
from headrace.frontend.text.model_tokenizer import ModelTokenizer
from headrace.protocol.common.thinking import ThinkingTracker
from headrace.protocol.sampling import ThinkingBudget

# The end of a prompt that is searched: room for a delimiter and the white space after it.
_PROMPT_END_CHARS = 256
_PROMPT_END_TOKENS = 128


class ReasoningStart(Enum):
    """The beginning of an answer.

    OPEN: with reasoning, because the prompt ends with the start delimiter.
    ASSUMED: with reasoning, with or without a start delimiter.
    OPTIONAL: with reasoning only if the answer begins with the start delimiter.
    CLOSED: without reasoning, because the prompt ends with the end delimiter.
    """

    OPEN = auto()
    ASSUMED = auto()
    OPTIONAL = auto()
    CLOSED = auto()


@dataclass(frozen=True, slots=True)
class ReasoningPlan:
    """The beginning and the end of an answer's reasoning.

    has_tools: whether tool calls may end reasoning.
    """

    delimiters: ReasoningDelimiters
    start: ReasoningStart
    has_tools: bool = False

    def reader(self, content_reader: MessageReader, *, include: bool) -> MessageReader:
        """Return a reader of reasoning; what follows is read by `content_reader`.

        Each choice needs readers of its own.
        include: whether the reader returns reasoning or drops it.
        """
        if self.start is ReasoningStart.CLOSED:
            return content_reader
        format_ = self.delimiters.format
        return ReasoningReader(
            content_reader,
            start=format_.start,
            end=format_.end,
            ends_before=format_.ends_before if self.has_tools else (),
            is_open=self._is_open,
            include=include,
        )

    def tracker(self) -> ThinkingTracker | None:
        """Return a tracker of reasoning tokens; None if there is nothing to track."""
        if self.start is ReasoningStart.CLOSED or not self.delimiters.end_ids:
            return None
        return ThinkingTracker(self._start_ids, self._ends, self._is_open)

    def budget(self, tokens: int | None) -> ThinkingBudget | None:
        """Return the budget that a worker enforces; None for no limit.

        tokens: reasoning tokens at most; None or -1 for no limit.
        Raises BadRequest if the limit cannot be enforced.
        """
        if tokens is None or tokens == -1:
            return None
        if not self.delimiters.end_ids:
            raise BadRequest(
                "thinking_token_budget: this model's tokenizer has no tokens for the delimiter that"
                " ends reasoning.",
                "thinking_token_budget",
            )
        if self.start is ReasoningStart.CLOSED:
            return None
        return ThinkingBudget(tokens, self._start_ids, self._ends, self._is_open)

    @property
    def grammar_after(self) -> tuple[int, ...]:
        """Return the tokens after which a grammar applies; () if it applies at once.

        It applies at once also where reasoning is not certain; the grammar then excludes reasoning.
        """
        return self.delimiters.end_ids if self._is_open else ()

    @property
    def _is_open(self) -> bool:
        return self.start in (ReasoningStart.OPEN, ReasoningStart.ASSUMED)

    @property
    def _start_ids(self) -> tuple[int, ...]:
        return () if self.start is ReasoningStart.OPEN else self.delimiters.start_ids

    @property
    def _ends(self) -> tuple[tuple[int, ...], ...]:
        ends_before = self.delimiters.ends_before_ids if self.has_tools else ()
        return (self.delimiters.end_ids, *filter(None, ends_before))


def reasoning_end_ids(model: ServedModel) -> tuple[int, ...]:
    """Return the token ids of the delimiter that ends a model's reasoning; () if it is unknown."""
    return () if model.reasoning is None else model.reasoning.end_ids


def check_thinking_budget(
    request: GenerationRequest, delimiters: ReasoningDelimiters | None
) -> None:
    """Raise BadRequest for a thinking budget if the model has no reasoning parser."""
    if delimiters is None and request.thinking_token_budget not in (None, -1):
        raise BadRequest(
            "thinking_token_budget needs a model that is served with --reasoning-parser.",
            "thinking_token_budget",
        )


async def plan_chat_reasoning(
    request: ChatCompletionRequest,
    tokenizer: ModelTokenizer,
    delimiters: ReasoningDelimiters,
    prompt: Prompt,
    variables: Mapping[str, Any],
) -> ReasoningPlan:
    """Return how the answer to a chat begins.

    variables: the variables of the chat template.
    """
    end = await _prompt_end(request, tokenizer, prompt)
    start = _start_by_prompt(delimiters, end)
    if start is None and request.continue_final_message:
        start = _start_by_message(delimiters, request)
    if start is None:
        switch = delimiters.format.switch
        is_off = switch is not None and variables.get(switch) is False
        is_assumed = delimiters.format.assumed and not is_off
        start = ReasoningStart.ASSUMED if is_assumed else ReasoningStart.OPTIONAL
    return ReasoningPlan(delimiters, start)


async def plan_completion_reasoning(
    tokenizer: ModelTokenizer, delimiters: ReasoningDelimiters, prompt: Prompt, is_truncated: bool
) -> ReasoningPlan:
    """Return how a completion begins.

    A completion's whole prompt is the client's own text, so the last delimiter in it counts.
    is_truncated: whether the prompt's tokens are only a part of its text.
    """
    prompt_text = prompt.text
    if prompt_text is None or is_truncated:
        prompt_text = await tokenizer.decode(prompt.token_ids, skip_special_tokens=False)
    start, end = delimiters.format.start, delimiters.format.end
    is_open = prompt_text.rfind(start) > prompt_text.rfind(end)
    return ReasoningPlan(delimiters, ReasoningStart.OPEN if is_open else ReasoningStart.OPTIONAL)


async def _prompt_end(
    request: ChatCompletionRequest, tokenizer: ModelTokenizer, prompt: Prompt
) -> str:
    """Return the end of a prompt as it is run."""
    if prompt.text is not None and request.truncate_prompt_tokens is None:
        return prompt.text[-_PROMPT_END_CHARS:]
    return await tokenizer.decode(prompt.token_ids[-_PROMPT_END_TOKENS:], skip_special_tokens=False)


def _start_by_prompt(delimiters: ReasoningDelimiters, end: str) -> ReasoningStart | None:
    """Return what a delimiter at the end of the prompt tells; earlier ones may be a user's text."""
    end = end.rstrip()
    if end.endswith(delimiters.format.end):
        return ReasoningStart.CLOSED
    return ReasoningStart.OPEN if end.endswith(delimiters.format.start) else None


def _start_by_message(
    delimiters: ReasoningDelimiters, request: ChatCompletionRequest
) -> ReasoningStart | None:
    """Return what the final message tells if the answer continues it; None if it is empty.

    Such a message is content unless it holds an open start delimiter.
    """
    content = request.messages[-1].content
    if not content:
        return None
    is_open = content.rfind(delimiters.format.start) > content.rfind(delimiters.format.end)
    return ReasoningStart.OPEN if is_open else ReasoningStart.CLOSED
