"""POST /v1/embeddings."""

import secrets
import time
from collections.abc import Sequence

from quart import Blueprint, Response
from quart_schema import document_request, document_response

from headrace.frontend.chat.render import render_chat
from headrace.frontend.context import Context, ServedModel
from headrace.frontend.generation.prompts import check_encodable
from headrace.frontend.http.parsing import read_body_as
from headrace.frontend.middleware import request_scope
from headrace.frontend.middleware.in_flight import count_in_flight
from headrace.frontend.openai_api.embedding_serializer import (
    AnswerHead,
    embedding_item,
    number_format_of,
    vectors_response,
)
from headrace.frontend.pooling.start_encoding import check_dimensions, start_encoding
from headrace.frontend.pooling.texts import EncodeInput, encode_inputs, encode_texts
from headrace.frontend.schemas.embeddings import (
    AnyEmbeddingRequest,
    EmbeddingChatFields,
    EmbeddingList,
    EmbeddingRequest,
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
    inputs = await _inputs(model, request)
    encoding = start_encoding(
        context,
        model,
        request,
        "embed",
        inputs,
        dimensions=request.dimensions,
        number_format=number_format_of(request),
    )
    answer_id = request_scope.register_response_id(
        f"embd-{request.request_id or secrets.token_hex(8)}"
    )
    found = await encoding.collect()
    tokens = sum(len(each.token_ids) for each in inputs)
    head = AnswerHead(answer_id, int(time.time()), model.name, tokens)
    return await vectors_response(head, request, found, embedding_item)


async def _inputs(model: ServedModel, request: AnyEmbeddingRequest) -> Sequence[EncodeInput]:
    if isinstance(request, EmbeddingRequest):
        return await encode_inputs(
            request,
            model,
            request.texts,
            add_special_tokens=request.add_special_tokens,
            prompt_name=request.prompt_name,
        )
    texts = [await _render(model, request, index) for index in range(len(request.conversations))]
    return await encode_texts(
        request, model, texts, add_special_tokens=request.add_special_tokens, field="messages"
    )


async def _render(model: ServedModel, request: EmbeddingChatFields, index: int) -> str:
    """Return a chat as the model's template writes it."""
    messages = request.conversations[index]
    for message in messages:
        check_encodable(model.tokenizer, message.content or "", "messages")
    return await render_chat(
        model.tokenizer,
        messages,
        add_generation_prompt=request.add_generation_prompt,
        continue_final_message=request.continue_final_message,
        variables=request.chat_template_kwargs or {},
        request_template=request.chat_template,
        serving=model.group.serving,
    )
