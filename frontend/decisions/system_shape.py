"""Translate questions and answers of /v1/systemone."""

import json
from typing import Any

from headrace.frontend.decisions.openai_shape import expected
from headrace.frontend.decisions.question import DIGITS, LETTERS, YES_NO, Option, Question
from headrace.frontend.decisions.read import Read
from headrace.frontend.errors import BadRequest, shortened
from headrace.frontend.schemas.decisions import SystemQuestion, SystemRequest


def system_text(request: SystemRequest) -> str:
    """Return what the questions are about, with the instructions ahead of them."""
    state = request.state
    text = state if isinstance(state, str) else json.dumps(state, ensure_ascii=False)
    return "\n\n".join(part for part in (text, request.instructions) if part)


def system_questions(request: SystemRequest) -> dict[str, Question]:
    """Return the questions by their ids. Raises BadRequest."""
    return {name: _question(name, asked) for name, asked in request.questions.items()}


def _question(name: str, asked: SystemQuestion) -> Question:
    field = f"questions.{shortened(name)}"
    if not name:
        raise BadRequest("questions: the ids of questions must be non-empty.", "questions")
    match asked.type:
        case "choice":
            options, labels = _choice(field, asked.criteria), LETTERS
        case "noul":
            options, labels = _yes_no(field, asked.criteria), YES_NO
        case "score":
            options, labels = _levels(field, asked.criteria), DIGITS
        case _:
            message = f"{field}: unknown question type; choice, noul and score are known."
            raise BadRequest(message, field)
    if len(options) > len(labels):
        raise BadRequest(f"{field}: at most {len(labels)} options.", field)
    instructions = _text(asked.instructions)
    return Question(instructions, options, labels[: len(options)])


def _choice(field: str, criteria: Any) -> list[Option]:
    if not isinstance(criteria, dict) or not criteria:
        raise BadRequest(
            f"{field}.criteria: must map option names to descriptions or null.", f"{field}.criteria"
        )
    return [Option(name, _text(description)) for name, description in criteria.items()]


def _yes_no(field: str, criteria: Any) -> list[Option]:
    if criteria is None:
        criteria = {}
    if not isinstance(criteria, dict) or criteria.keys() - {"true", "false"}:
        raise BadRequest(
            f"{field}.criteria: must be an object with true and false, or null.",
            f"{field}.criteria",
        )
    return [
        Option("yes", _text(criteria.get("true"))),
        Option("no", _text(criteria.get("false"))),
    ]


def _levels(field: str, criteria: Any) -> list[Option]:
    if not isinstance(criteria, list) or len(criteria) < 2:
        raise BadRequest(
            f"{field}.criteria: must be an ordered list of levels, two at least.",
            f"{field}.criteria",
        )
    return [Option(_text(level)) for level in criteria]


def _text(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def system_answer(asked: SystemQuestion, question: Question, read: Read) -> dict[str, Any]:
    """Return the answer to a question."""
    probabilities, confidence = read.probabilities, read.confidence
    names = [option.name for option in question.options]
    if asked.type == "score":
        indices = list(map(str, range(len(names))))
        return {
            "type": "score",
            "score": expected(probabilities),
            "legend": dict(zip(indices, names, strict=True)),
            "probabilities": dict(zip(indices, probabilities, strict=True)),
            "confidence": confidence,
        }
    by_name = dict(zip(names, probabilities, strict=True))
    chosen: dict[str, Any] = {"choice": names[read.top]}
    if asked.type == "noul":
        chosen = {"noul": probabilities[0]}
    return {"type": asked.type, **chosen, "probabilities": by_name, "confidence": confidence}
