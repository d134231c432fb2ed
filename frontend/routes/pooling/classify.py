"""POST /classify."""

import time
from collections.abc import Sequence
from typing import Any

from quart import Blueprint, Response
from quart_schema import document_request, document_response

from headrace.frontend.context import Context
from headrace.frontend.http.parsing import read_body_as
from headrace.frontend.middleware.errors import json_response
from headrace.frontend.middleware.in_flight import count_in_flight
from headrace.frontend.openai_api.embedding_serializer import AnswerHead, list_answer
from headrace.frontend.pooling.inputs import inputs_of
from headrace.frontend.pooling.similarity import vector_of
from headrace.frontend.pooling.start_encoding import register_answer_id, start_encoding
from headrace.frontend.pooling.texts import pooling_of
from headrace.frontend.schemas.pooling.labels import (
    AnyClassifyRequest,
    Classification,
    ClassifyBody,
    classify_model,
)
from headrace.frontend.schemas.response_bodies import ErrorAnswer


def blueprint(context: Context) -> Blueprint:
    routes = Blueprint("classify", __name__)

    @routes.post("/classify")
    @document_request(ClassifyBody)
    @document_response(Classification)
    @document_response(ErrorAnswer, 400)
    @document_response(ErrorAnswer, 404)
    async def classify() -> Response:
        """Score the labels of texts, token ids or a chat."""
        count_in_flight(context)
        return await answer(context, await read_body_as(classify_model))

    return routes


async def answer(context: Context, request: AnyClassifyRequest) -> Response:
    """Answer a request for labels."""
    model = context.model(request.model, "classify")
    inputs = await inputs_of(model, request)
    encoding = start_encoding(context, model, request, "classify", inputs)
    answer_id = register_answer_id("classify", request.request_id)
    found = await encoding.collect()
    tokens = sum(len(each.token_ids) for each in inputs)
    head = AnswerHead(answer_id, int(time.time()), model.name, tokens)
    labels = pooling_of(model).labels
    data = [_item(index, vector_of(each), labels) for index, each in enumerate(found)]
    return json_response(list_answer(head, data))


def _item(index: int, scores: Sequence[float], labels: Sequence[str]) -> dict[str, Any]:
    best = max(range(len(scores)), key=scores.__getitem__)
    return {
        "index": index,
        "label": labels[best] if best < len(labels) else None,
        "probs": scores,
        "num_classes": len(scores),
    }
