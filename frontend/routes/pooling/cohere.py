"""POST /v2/embed: Cohere's way to ask for embeddings."""

from typing import Any, Literal

from quart import Blueprint, Response
from quart_schema import document_request, document_response

from headrace.frontend.context import Context, ServedModel
from headrace.frontend.errors import BadRequest
from headrace.frontend.http.parsing import read_body
from headrace.frontend.middleware.errors import json_response
from headrace.frontend.middleware.in_flight import count_in_flight
from headrace.frontend.openai_api.embedding_serializer import answer_head
from headrace.frontend.pooling.scoring import DOCUMENT_PROMPTS, QUERY_PROMPTS, prompt_of
from headrace.frontend.pooling.start_encoding import (
    check_dimensions,
    start_encoding,
)
from headrace.frontend.pooling.texts import (
    SHORTENS,
    EncodeInput,
    encode_texts,
    pooling_of,
    with_route,
)
from headrace.frontend.pooling.typed_embeddings import check_types, typed_embeddings
from headrace.frontend.process.worker_thread import run_in_worker_thread
from headrace.frontend.schemas.pooling.cohere import CohereEmbeddings, CohereEmbedRequest
from headrace.frontend.schemas.pooling.fields import PoolingFields
from headrace.frontend.schemas.response_bodies import ErrorAnswer

# The prompts of Cohere's kinds of inputs, by the names that authors give them.
_PROMPTS = {
    "search_query": QUERY_PROMPTS,
    "search_document": DOCUMENT_PROMPTS,
    "classification": ("classification", "Classification"),
    "clustering": ("clustering", "Clustering"),
}
_MANY_BYTES = 64 * 1024


def blueprint(context: Context) -> Blueprint:
    routes = Blueprint("cohere", __name__)

    @routes.post("/v2/embed")
    @document_request(CohereEmbedRequest)
    @document_response(CohereEmbeddings)
    @document_response(ErrorAnswer, 400)
    @document_response(ErrorAnswer, 404)
    async def embed() -> Response:
        """Turn texts into vectors, in several forms at once."""
        count_in_flight(context)
        return await answer(context, await read_body(CohereEmbedRequest))

    return routes


async def answer(context: Context, request: CohereEmbedRequest) -> Response:
    """Answer Cohere's request for embeddings."""
    model = context.model(request.model, "embed")
    check_dimensions(model, request.output_dimension, "output_dimension", "output_dimension")
    types = request.embedding_types or ["float"]
    info = pooling_of(model)
    check_types(types, request.output_dimension or info.default_dimensions or info.size)
    inputs = await _inputs(model, request)
    fields = PoolingFields(priority=request.priority)
    encoding = start_encoding(
        context, model, fields, "embed", inputs, dimensions=request.output_dimension
    )
    head = answer_head("embd", None, model.name, inputs)
    found = await encoding.collect()
    is_long = sum(len(each.data) for each in found) > _MANY_BYTES
    embeddings = await run_in_worker_thread(lambda: typed_embeddings(found, types), is_long)
    body: dict[str, Any] = {"id": head.answer_id, "embeddings": embeddings}
    if request.texts is not None:
        body["texts"] = request.texts
    body["meta"] = {
        "api_version": {"version": "2"},
        "billed_units": {"input_tokens": head.prompt_tokens, "image_tokens": 0},
    }
    return json_response({**body, "response_type": "embeddings_by_type"})


async def _inputs(model: ServedModel, request: CohereEmbedRequest) -> list[EncodeInput]:
    """Return the tokens of the texts. Raises BadRequest, naming the field."""
    if request.texts is not None and request.inputs is not None:
        raise BadRequest("inputs: texts and inputs exclude each other.", "inputs")
    if not request.strings:
        raise BadRequest("texts: must be given.", "texts")
    field = "inputs" if request.texts is None else "texts"
    try:
        inputs = await encode_texts(
            _cut(model, request),
            model,
            request.strings,
            add_special_tokens=True,
            prompt=_prompt(model, request.input_type),
            field=field,
            task="embed",
        )
    except BadRequest as error:  # which knows this route's fields by other names
        raise error.renamed(error.message.replace(SHORTENS, "truncate"), error.param) from None
    most = request.max_tokens
    if most is not None and any(len(each.token_ids) > most for each in inputs):
        raise BadRequest(
            f"max_tokens: a text of {field} has more than {most} tokens.", "max_tokens"
        )
    kind = request.input_type or ""
    return with_route(inputs, model, (kind, *_PROMPTS.get(kind, ())))


def _cut(model: ServedModel, request: CohereEmbedRequest) -> PoolingFields:
    """Return how texts are shortened."""
    if request.truncate == "NONE":
        return PoolingFields()
    side: Literal["left", "right"] = "left" if request.truncate == "START" else "right"
    longest = pooling_of(model).max_embed_len or model.tokenizer.info.max_model_len
    keep = min(request.max_tokens or longest, longest)
    return PoolingFields(truncate_prompt_tokens=keep, truncation_side=side)


def _prompt(model: ServedModel, input_type: str | None) -> str:
    """Return the prompt before inputs of a type: the model's own of its name, or of one that means
    the same; "" if it has none. Raises BadRequest for a type that is unknown."""
    info = pooling_of(model)
    if input_type is None:
        return info.prompts.get(info.default_prompt or "", "")
    if input_type in info.prompts:
        return info.prompts[input_type]
    if input_type in info.routes:
        return ""
    if input_type not in _PROMPTS:
        known = ", ".join((*info.prompts, *_PROMPTS))
        raise BadRequest(f"input_type: must be one of {known}.", "input_type")
    return prompt_of(model, _PROMPTS[input_type])
