"""POST /v1/embeddings."""

from quart import Blueprint, Response
from quart_schema import document_request, document_response

from headrace.frontend.context import Context
from headrace.frontend.http.parsing import read_body_as
from headrace.frontend.middleware.in_flight import count_in_flight
from headrace.frontend.openai_api.embedding_serializer import (
    answer_head,
    embedding_item,
    number_format_of,
    vectors_response,
)
from headrace.frontend.pooling.inputs import inputs_of
from headrace.frontend.pooling.start_encoding import (
    check_dimensions,
    start_encoding,
)
from headrace.frontend.schemas.pooling.embeddings import (
    AnyEmbeddingRequest,
    EmbeddingList,
    EmbeddingsBody,
    embedding_model,
)
from headrace.frontend.schemas.response_bodies import ErrorAnswer


def blueprint(context: Context) -> Blueprint:
    routes = Blueprint("embeddings", __name__)

    @routes.post("/v1/embeddings")
    @document_request(EmbeddingsBody)
    @document_response(EmbeddingList)
    @document_response(ErrorAnswer, 400)
    @document_response(ErrorAnswer, 404)
    async def embeddings() -> Response:
        """Turn texts, token ids or chats into vectors."""
        count_in_flight(context)
        return await answer(context, await read_body_as(embedding_model))

    return routes


async def answer(context: Context, request: AnyEmbeddingRequest) -> Response:
    """Answer a request for embeddings."""
    model = context.model(request.model, "embed")
    check_dimensions(model, request.dimensions)
    inputs = await inputs_of(model, request, "embed")
    encoding = start_encoding(
        context,
        model,
        request,
        "embed",
        inputs,
        dimensions=request.dimensions,
        number_format=number_format_of(request),
    )
    head = answer_head("embd", request.request_id, model.name, inputs)
    found = await encoding.collect()
    return await vectors_response(head, request, found, embedding_item)
