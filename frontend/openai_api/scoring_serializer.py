"""Serialize the answers of /score and /rerank, whose shapes are the reference's."""

from collections.abc import Sequence
from typing import Any

from headrace.frontend.openai_api.embedding_serializer import AnswerHead, list_answer
from headrace.frontend.schemas.pooling.scoring import RerankRequest


def score_list(head: AnswerHead, scores: Sequence[float]) -> dict[str, Any]:
    """Return the answer with the score of each pair."""
    data = [
        {"index": index, "object": "score", "score": score} for index, score in enumerate(scores)
    ]
    return list_answer(head, data)


def ranking(head: AnswerHead, request: RerankRequest, scores: Sequence[float]) -> dict[str, Any]:
    """Return the answer with the best documents, in the order of their scores."""
    order = sorted(range(len(scores)), key=lambda index: -scores[index])
    return {
        "id": head.answer_id,
        "model": head.model,
        "usage": {"prompt_tokens": head.prompt_tokens, "total_tokens": head.prompt_tokens},
        "results": [_result(request, index, scores) for index in order[: request.top_n or None]],
    }


def _result(request: RerankRequest, index: int, scores: Sequence[float]) -> dict[str, Any]:
    document: dict[str, Any] = {"text": request.seconds[index], "multi_modal": None}
    shown = {} if request.return_documents is False else {"document": document}
    return {"index": index, **shown, "relevance_score": scores[index]}
