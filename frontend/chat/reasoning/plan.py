"""Whether the answer to a request begins with reasoning, and all that follows from that."""

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

# Of a prompt's end, enough for a mark and the white space after it.
_END_CHARS = 256
_END_TOKENS = 128


class ReasoningStart(Enum):
    """How an answer begins. OPEN: with reasoning, whose start mark is in the prompt. ASSUMED: with
    reasoning, start mark or not. MARKED: with reasoning if the start mark is there. CLOSED: with no
    reasoning, which the prompt has ended."""

    OPEN = auto()
    ASSUMED = auto()
    OPTIONAL = auto()
    CLOSED = auto()


@dataclass(frozen=True, slots=True)
class ReasoningPlan:
    """beginning: of the answer. has_tools: whether calls of tools may end reasoning."""

    marks: ReasoningDelimiters
    beginning: ReasoningStart
    has_tools: bool = False

    def reader(self, rest: MessageReader, *, include: bool) -> MessageReader:
        """Reads reasoning, and what comes after it with `rest`; each text needs its own."""
        if self.beginning is ReasoningStart.CLOSED:
            return rest
        format_ = self.marks.format
        return ReasoningReader(
            rest,
            start=format_.start,
            end=format_.end,
            ends_before=format_.ends_before if self.has_tools else (),
            is_open=self._is_open,
            include=include,
        )

    def block(self) -> ThinkingTracker | None:
        """What follows reasoning in a text's tokens; None if that cannot be done."""
        if self.beginning is ReasoningStart.CLOSED or not self.marks.end_ids:
            return None
        return ThinkingTracker(self._start_ids, self._ends, self._is_open)

    def budget(self, tokens: int | None) -> ThinkingBudget | None:
        """What a worker is told, so that reasoning has so many tokens at most; None if nothing.

        BadRequest if it cannot be held.
        """
        if tokens is None or tokens == -1:
            return None
        if not self.marks.end_ids:
            raise BadRequest(
                "thinking_token_budget: this model's tokenizer has no tokens for the mark that"
                " ends reasoning.",
                "thinking_token_budget",
            )
        if self.beginning is ReasoningStart.CLOSED:
            return None
        return ThinkingBudget(tokens, self._start_ids, self._ends, self._is_open)

    @property
    def grammar_after(self) -> tuple[int, ...]:
        """The tokens after which a grammar for the answer begins to hold; () if it does at once, as
        where reasoning is not certain: then the grammar leaves none."""
        return self.marks.end_ids if self._is_open else ()

    @property
    def _is_open(self) -> bool:
        return self.beginning in (ReasoningStart.OPEN, ReasoningStart.ASSUMED)

    @property
    def _start_ids(self) -> tuple[int, ...]:
        return () if self.beginning is ReasoningStart.OPEN else self.marks.start_ids

    @property
    def _ends(self) -> tuple[tuple[int, ...], ...]:
        before = self.marks.before_ids if self.has_tools else ()
        return (self.marks.end_ids, *filter(None, before))


def reasoning_end_ids(model: ServedModel) -> tuple[int, ...]:
    """The tokens of the mark that ends a model's reasoning; () if nothing is known of that."""
    return () if model.reasoning is None else model.reasoning.end_ids


def check_thinking_budget(request: GenerationRequest, marks: ReasoningDelimiters | None) -> None:
    """BadRequest for a thinking budget where nothing is known of the model's reasoning."""
    if marks is None and request.thinking_token_budget not in (None, -1):
        raise BadRequest(
            "thinking_token_budget needs a model that is served with --reasoning-parser.",
            "thinking_token_budget",
        )


async def plan_chat_reasoning(
    request: ChatCompletionRequest,
    text: ModelTokenizer,
    marks: ReasoningDelimiters,
    prompt: Prompt,
    variables: Mapping[str, Any],
) -> ReasoningPlan:
    """variables: what the request has given to the chat template."""
    end = await _end(request, text, prompt)
    beginning = _by_end(marks, end)
    if beginning is None and request.continue_final_message:
        beginning = _by_message(marks, request)
    if beginning is None:
        switch = marks.format.switch
        is_off = switch is not None and variables.get(switch) is False
        is_assumed = marks.format.assumed and not is_off
        beginning = ReasoningStart.ASSUMED if is_assumed else ReasoningStart.OPTIONAL
    return ReasoningPlan(marks, beginning)


async def plan_completion_reasoning(
    text: ModelTokenizer, marks: ReasoningDelimiters, prompt: Prompt, is_cut: bool
) -> ReasoningPlan:
    """All of a completion's prompt is its client's own: its last mark counts, wherever it stands.

    is_cut: whether the prompt's tokens are only a part of its text.
    """
    whole = prompt.text
    if whole is None or is_cut:
        whole = await text.decode(prompt.token_ids, skip_special_tokens=False)
    start, end = whole.rfind(marks.format.start), whole.rfind(marks.format.end)
    return ReasoningPlan(marks, ReasoningStart.OPEN if start > end else ReasoningStart.OPTIONAL)


async def _end(request: ChatCompletionRequest, text: ModelTokenizer, prompt: Prompt) -> str:
    """The end of a prompt, as it is run."""
    if prompt.text is not None and request.truncate_prompt_tokens is None:
        return prompt.text[-_END_CHARS:]
    return await text.decode(prompt.token_ids[-_END_TOKENS:], skip_special_tokens=False)


def _by_end(marks: ReasoningDelimiters, end: str) -> ReasoningStart | None:
    """What a mark at the end of the prompt says. Marks before it may be a user's words."""
    end = end.rstrip()
    if end.endswith(marks.format.end):
        return ReasoningStart.CLOSED
    return ReasoningStart.OPEN if end.endswith(marks.format.start) else None


def _by_message(marks: ReasoningDelimiters, request: ChatCompletionRequest) -> ReasoningStart | None:
    """What the final message says, where the answer goes on with it; it is content, unless it
    shows otherwise."""
    content = request.messages[-1].content
    if not content:
        return None
    is_open = content.rfind(marks.format.start) > content.rfind(marks.format.end)
    return ReasoningStart.OPEN if is_open else ReasoningStart.CLOSED
