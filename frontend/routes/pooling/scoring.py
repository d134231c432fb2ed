"""POST /score and /rerank, by all names that clients know."""

from quart import Blueprint, Response
from quart_schema import document_request, document_response

from headrace.frontend.context import Context
from headrace.frontend.http.parsing import read_body, read_body_as
from headrace.frontend.middleware.errors import json_response
from headrace.frontend.middleware.in_flight import count_in_flight
from headrace.frontend.openai_api.embedding_serializer import AnswerHead, answer_head
from headrace.frontend.openai_api.scoring_serializer import ranking, score_list
from headrace.frontend.pooling.scoring import start_scoring
from headrace.frontend.schemas.pooling.scoring import (
    Ranking,
    RerankRequest,
    ScoreBody,
    ScoreList,
    ScoringFields,
    score_model,
)
from headrace.frontend.schemas.response_bodies import ErrorAnswer


def blueprint(context: Context) -> Blueprint:
    routes = Blueprint("scoring", __name__)

    @routes.post("/score")
    @routes.post("/v1/score")
    @document_request(ScoreBody)
    @document_response(ScoreList)
    @document_response(ErrorAnswer, 400)
    @document_response(ErrorAnswer, 404)
    async def score() -> Response:
        """Score pairs of texts."""
        count_in_flight(context)
        return await answer_score(context, await read_body_as(score_model))

    @routes.post("/rerank")
    @routes.post("/v1/rerank")
    @routes.post("/v2/rerank")
    @document_request(RerankRequest)
    @document_response(Ranking)
    @document_response(ErrorAnswer, 400)
    @document_response(ErrorAnswer, 404)
    async def rerank() -> Response:
        """Order documents by what they have to do with a query."""
        count_in_flight(context)
        return await answer_rerank(context, await read_body(RerankRequest))

    return routes


async def answer_score(context: Context, request: ScoringFields) -> Response:
    """Answer a request for scores."""
    head, scores = await _scores(context, request)
    return json_response(score_list(head, scores))


async def answer_rerank(context: Context, request: RerankRequest) -> Response:
    """Answer a request for the order of documents."""
    head, scores = await _scores(context, request)
    return json_response(ranking(head, request, scores))


async def _scores(context: Context, request: ScoringFields) -> tuple[AnswerHead, list[float]]:
    scoring = await start_scoring(context, request)
    head = answer_head("score", request.request_id, scoring.model.name, scoring.inputs)
    return head, await scoring.collect()
