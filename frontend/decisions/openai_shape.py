"""Translate questions and answers of /v1/decisions."""

import json
from collections.abc import Sequence
from typing import Any

from headrace.frontend.decisions.question import DIGITS, YES_NO, Option, Question, letters
from headrace.frontend.decisions.read import Read
from headrace.frontend.schemas.decisions import (
    ChoiceOfValues,
    DecisionQuestion,
    Predicate,
)


def as_question(asked: DecisionQuestion) -> Question:
    """Return a question with the labels that its answer is read from."""
    if isinstance(asked, Predicate):
        return Question(asked.instructions, [Option("yes"), Option("no")], YES_NO)
    if isinstance(asked, ChoiceOfValues):
        options = [
            Option(json.dumps(each.value, ensure_ascii=False), each.description)
            for each in asked.choices
        ]
        return Question(asked.instructions, options, letters(len(options)))
    options = [Option(level.label, level.description) for level in asked.levels]
    return Question(asked.instructions, options, DIGITS[: len(options)])


def as_answer(asked: DecisionQuestion, read: Read) -> dict[str, Any]:
    """Return the answer to a question."""
    head = {"type": asked.type, "name": asked.name}
    if isinstance(asked, Predicate):
        return {**head, "probability": read.probabilities[0]}
    if isinstance(asked, ChoiceOfValues):
        values = [choice.value for choice in asked.choices]
        pairs = [
            {"value": value, "probability": probability}
            for value, probability in zip(values, read.probabilities, strict=True)
        ]
        chosen: dict[str, Any] = {"choice": values[read.top], "probabilities": pairs}
        return {**head, **chosen, "confidence": read.confidence}
    levels = [
        {"value": index, "label": level.label, "probability": probability}
        for index, (level, probability) in enumerate(
            zip(asked.levels, read.probabilities, strict=True)
        )
    ]
    score = expected(read.probabilities)
    return {**head, "score": score, "probabilities": levels, "confidence": read.confidence}


def expected(probabilities: Sequence[float]) -> float:
    """Return the expected index."""
    return sum(index * probability for index, probability in enumerate(probabilities))


def usage(reads: Sequence[Read], block_size: int, caches: bool) -> dict[str, Any]:
    """Return the usage. block_size: of the cache, in which whole blocks of prompts stay."""
    given = sum(read.input_tokens for read in reads)
    made = sum(read.output_tokens for read in reads)
    written = sum(
        max(read.input_tokens // block_size * block_size - read.cached_tokens, 0) for read in reads
    )
    return {
        "input_tokens": given,
        "input_tokens_details": {
            "cached_tokens": sum(read.cached_tokens for read in reads),
            "cache_write_tokens": written if caches else 0,
        },
        "output_tokens": made,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": given + made,
    }
