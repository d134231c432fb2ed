"""Read a model's answers to questions from the probabilities of its first tokens."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from headrace.frontend.chat.prompt import chat_prompt, template_variables
from headrace.frontend.chat.reasoning.plan import ReasoningStart, plan_chat_reasoning
from headrace.frontend.context import Context, ServedModel
from headrace.frontend.decisions.label_tree import LabelTree, Path, normalized
from headrace.frontend.decisions.question import Question
from headrace.frontend.errors import ApiError, BadRequest
from headrace.frontend.generation.generation import CollectedChoice, collect
from headrace.frontend.generation.start_generation import (
    Prompt,
    check_choice_count,
    start_generation,
)
from headrace.frontend.http.parsing import validate
from headrace.frontend.schemas.chat import ChatCompletionRequest
from headrace.frontend.schemas.limits import limit_of
from headrace.protocol.sampling import SamplingParams

# The end of a prompt, with which its labels are tokenized.
_TAIL_CHARS = 32
# Prompts from this size on are run one before the others, which then find the state in the cache.
_FIRST_ALONE_TOKENS = 256


@dataclass(frozen=True, slots=True)
class Matter:
    """What questions are about. text: the state, and what precedes the questions.

    field: of the request, for errors. options: further fields of the chats that ask.
    """

    model: ServedModel
    text: str
    field: str
    options: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Read:
    """The answer to a question.

    probabilities: of its options, which add up to 1. label_mass: that of all labels together among
    all that the model could have said. argmax_is_label: whether its likeliest token is of a label.
    """

    probabilities: list[float]
    label_mass: float
    argmax_is_label: bool
    input_tokens: int
    cached_tokens: int
    output_tokens: int

    @property
    def top(self) -> int:
        """The index of the likeliest option."""
        return max(range(len(self.probabilities)), key=self.probabilities.__getitem__)

    @property
    def confidence(self) -> float:
        """The probability of the likeliest option among all that the model could have said."""
        return self.probabilities[self.top] * self.label_mass


async def read_answers(
    context: Context, matter: Matter, questions: Sequence[Question]
) -> list[Read]:
    """Return the answers to questions, each read on its own. Raises ApiError."""
    asked: list[tuple[Prompt, LabelTree]] = []
    request: ChatCompletionRequest | None = None
    for question in questions:
        request = _chat(matter, question)
        prompt = await _prompt(request, matter)
        if len(prompt.token_ids) * len(questions) > limit_of("max_token_ids"):
            raise BadRequest(f"questions: too many for a text of this length: {matter.field}.")
        asked.append((prompt, await _tree(matter.model, prompt, question)))
    assert request is not None
    answers = await _run(context, matter.model, request, asked)
    return [_read(prompt, tree, outputs) for (prompt, tree), outputs in answers]


def _chat(matter: Matter, question: Question) -> ChatCompletionRequest:
    parts = [part for part in (matter.text, question.text()) if part]
    message = {"role": "user", "content": "\n\n".join(parts)}
    given = {name: value for name, value in matter.options.items() if value is not None}
    variables = {"enable_thinking": False, **given.pop("chat_template_kwargs", {})}
    fields = {"messages": [message], "chat_template_kwargs": variables, **given}
    return validate(ChatCompletionRequest, {"model": matter.model.name, **fields})


async def _prompt(request: ChatCompletionRequest, matter: Matter) -> Prompt:
    """Return the prompt of a question, after which the model's answer begins."""
    model = matter.model
    try:
        prompt = await chat_prompt(request, model)
    except ApiError as error:
        if error.param == "messages":
            error.param = matter.field
            error.message = error.message.replace("messages", matter.field, 1)
        raise
    if model.reasoning is None:
        return prompt
    variables = template_variables(request, model)
    plan = await plan_chat_reasoning(request, model.tokenizer, model.reasoning, prompt, variables)
    format_, skipped = model.reasoning.format, ""
    if plan.start is ReasoningStart.OPEN:
        skipped = format_.end
    elif plan.start is ReasoningStart.ASSUMED:
        skipped = format_.start + format_.end
    added = await model.tokenizer.encode(skipped, add_special_tokens=False)
    return Prompt((*prompt.token_ids, *added), (prompt.text or "") + skipped)


async def _tree(model: ServedModel, prompt: Prompt, question: Question) -> LabelTree:
    tail = (prompt.text or "")[-_TAIL_CHARS:]
    texts = [tail, *(tail + label for label in question.labels), *question.labels]
    ids = await model.tokenizer.encode_all(texts, add_special_tokens=False)
    count, before = len(question.labels), ids[0]
    after, alone = ids[1 : count + 1], ids[count + 1 :]
    # A tail that is tokenized differently with a label after it is not the prompt's end any more.
    fits = all(each[: len(before)] == before for each in after)
    labels = [tuple(each[len(before) :]) for each in after] if fits else map(tuple, alone)
    try:
        return LabelTree(list(labels))
    except ValueError as error:
        raise BadRequest("questions: this model's tokens do not tell the labels apart.") from error


async def _run(
    context: Context,
    model: ServedModel,
    request: ChatCompletionRequest,
    asked: Sequence[tuple[Prompt, LabelTree]],
) -> list[tuple[tuple[Prompt, LabelTree], dict[Path, CollectedChoice]]]:
    """Ask for the next tokens at each node of each question's tree."""
    steps = [
        (n, path, ids) for n, (_, tree) in enumerate(asked) for path, ids in tree.nodes.items()
    ]
    if len(steps) > (most := limit_of("max_choices")):
        raise BadRequest(f"questions: more than {most} reads.", "questions")
    check_choice_count(request, len(steps))
    is_long = len(asked[0][0].token_ids) >= _FIRST_ALONE_TOKENS
    parts = [steps[:1], steps[1:]] if is_long else [steps]
    outputs: list[CollectedChoice] = []
    for part in filter(None, parts):
        prompts = [
            replace(asked[n][0], token_ids=(*asked[n][0].token_ids, *path)) for n, path, _ in part
        ]
        samplings = [_sampling(ids) for _, _, ids in part]
        generation = start_generation(context, model, request, prompts, samplings)
        outputs += await collect(generation)
    found: list[dict[Path, CollectedChoice]] = [{} for _ in asked]
    for (n, path, _), output in zip(steps, outputs, strict=True):
        found[n][path] = output
    return list(zip(asked, found, strict=True))


def _sampling(token_ids: Path) -> SamplingParams:
    """Return the sampling that tells how likely these tokens are next."""
    return SamplingParams(
        seed=0, max_tokens=1, temperature=0.0, logprobs=0, logprob_token_ids=token_ids
    )


def _read(prompt: Prompt, tree: LabelTree, outputs: Mapping[Path, CollectedChoice]) -> Read:
    logprobs = {
        path: dict(zip(at.top_token_ids, at.top_logprobs, strict=True))
        for path, output in outputs.items()
        for at in output.logprobs[:1]
    }
    probabilities = tree.probabilities(logprobs)
    return Read(
        probabilities=normalized(probabilities),
        label_mass=sum(probabilities),
        argmax_is_label=outputs[()].logprobs[0].token_id in tree.nodes[()],
        input_tokens=sum(len(prompt.token_ids) + len(path) for path in outputs),
        cached_tokens=sum(output.choice.cached_tokens for output in outputs.values()),
        output_tokens=len(outputs),
    )
