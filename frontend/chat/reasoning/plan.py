"""Plan how the reasoning of an answer begins and ends."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

from headrace.frontend.chat.message import MessageReader
from headrace.frontend.chat.reasoning.delimiters import ReasoningDelimiters
from headrace.frontend.chat.reasoning.harmony import HarmonyReader
from headrace.frontend.chat.reasoning.reader import AnswerReader, PrefixedReader, ReasoningReader
from headrace.frontend.context import ServedModel
from headrace.frontend.errors import BadRequest
from headrace.frontend.generation.start_generation import Prompt
from headrace.frontend.schemas.chat import ChatCompletionRequest
from headrace.frontend.schemas.generation import GenerationRequest
from headrace.frontend.text.model_tokenizer import ModelTokenizer
from headrace.protocol.common.reasoning_text import ReasoningMarks
from headrace.protocol.common.thinking import ThinkingTracker
from headrace.protocol.reasoning import ReasoningFormat
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
    has_grammar: whether what follows reasoning must match a grammar.
    """

    delimiters: ReasoningDelimiters
    start: ReasoningStart
    has_tools: bool = False
    has_grammar: bool = False

    def reader(self, content_reader: MessageReader, *, include: bool) -> MessageReader:
        """Return a reader of reasoning; what follows is read by `content_reader`.

        Each choice needs readers of its own.
        include: whether the reader returns reasoning or drops it.
        """
        format_ = self.delimiters.format
        is_closed = self.start is ReasoningStart.CLOSED
        if format_.layout == "harmony":
            return HarmonyReader(content_reader, include=include, in_answer=is_closed)
        if format_.layout == "prefixed":
            is_open = self.start is ReasoningStart.OPEN
            return PrefixedReader(content_reader, format_.start) if is_open else content_reader
        if format_.answer_start is not None and format_.answer_end is not None:
            content_reader = AnswerReader(content_reader, format_.answer_start, format_.answer_end)
        if is_closed:
            return content_reader
        return ReasoningReader(
            content_reader,
            marks=format_.marks(with_calls=self.has_tools),
            is_open=self._is_open,
            include=include,
            heading=format_.heading,
            trims=format_.trims,
        )

    def tracker(self, tokenizer: ModelTokenizer) -> ThinkingTracker | None:
        """Return a tracker of reasoning tokens; None if there is nothing to track."""
        if self.start is ReasoningStart.CLOSED:
            return None
        return ThinkingTracker(self._marks.as_bytes(), self._is_open, tokenizer.token_text)

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
        start_ids = self.delimiters.start_ids if self._marks.starts else ()
        end_ids = self.delimiters.end_ids
        return ThinkingBudget(tokens, self._marks, start_ids, end_ids, self._is_open)

    @property
    def grammar_after(self) -> tuple[str, ...]:
        """Return the texts after which a grammar applies; () if it applies at once.

        It applies at once also where reasoning is not certain; the grammar then excludes reasoning.
        """
        return self.delimiters.format.ends if self._is_open else ()

    @property
    def _is_open(self) -> bool:
        return self.start in (ReasoningStart.OPEN, ReasoningStart.ASSUMED)

    @property
    def _marks(self) -> ReasoningMarks:
        with_start = self.start is not ReasoningStart.OPEN and bool(self.delimiters.start_ids)
        return self.delimiters.format.marks(with_start=with_start, with_calls=self.has_tools)


def can_bound_reasoning(model: ServedModel) -> bool:
    """Return whether a model's reasoning can be held to a budget."""
    return model.reasoning is not None and bool(model.reasoning.end_ids)


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
        is_assumed = delimiters.format.assumed and delimiters.format.is_on(variables)
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
    is_open = _is_left_open(delimiters.format, prompt_text)
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
    format_ = delimiters.format
    heading = format_.heading.rstrip()
    if end.endswith((*format_.ends, *filter(None, (format_.answer_start,)))):
        return ReasoningStart.CLOSED
    starts = (*format_.starts, *(start + heading for start in format_.starts))
    return ReasoningStart.OPEN if end.endswith(starts) else None


def _start_by_message(
    delimiters: ReasoningDelimiters, request: ChatCompletionRequest
) -> ReasoningStart | None:
    """Return what the final message tells if the answer continues it; None if it is empty.

    Such a message is content unless it holds an open start delimiter.
    """
    content = request.messages[-1].content
    if not content:
        return None
    is_open = _is_left_open(delimiters.format, content)
    return ReasoningStart.OPEN if is_open else ReasoningStart.CLOSED


def _is_left_open(format_: ReasoningFormat, text: str) -> bool:
    """Return whether the last delimiter in a text is a start."""
    return max(map(text.rfind, format_.starts)) > max(map(text.rfind, format_.ends))
