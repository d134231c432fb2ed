"""POST /classify."""

from quart import Blueprint, Response
from quart_schema import document_request, document_response

from headrace.frontend.context import Context
from headrace.frontend.http.parsing import read_body_as
from headrace.frontend.middleware.in_flight import count_in_flight
from headrace.frontend.openai_api.embedding_serializer import answer_head, labels_response
from headrace.frontend.pooling.inputs import inputs_of
from headrace.frontend.pooling.start_encoding import start_encoding
from headrace.frontend.pooling.texts import pooling_of
from headrace.frontend.schemas.pooling.classify import (
    ClassificationList,
    ClassifyBody,
    ClassifyChatRequest,
    ClassifyRequest,
    classify_model,
)
from headrace.frontend.schemas.response_bodies import ErrorAnswer


def blueprint(context: Context) -> Blueprint:
    routes = Blueprint("classify", __name__)

    @routes.post("/classify")
    @document_request(ClassifyBody)
    @document_response(ClassificationList)
    @document_response(ErrorAnswer, 400)
    @document_response(ErrorAnswer, 404)
    async def classify() -> Response:
        """Tell the labels of texts, token ids or a chat."""
        count_in_flight(context)
        return await answer(context, await read_body_as(classify_model))

    return routes


async def answer(context: Context, request: ClassifyRequest | ClassifyChatRequest) -> Response:
    """Answer a request for labels."""
    model = context.model(request.model, "classify")
    inputs = await inputs_of(model, request, "classify")
    encoding = start_encoding(context, model, request, "classify", inputs)
    head = answer_head("classify", request.request_id, model.name, inputs)
    return labels_response(head, await encoding.collect(), pooling_of(model).labels)
