"""POST /tokenize and /detokenize, GET /tokenizer_info."""

import asyncio
from typing import Any

from quart import Blueprint, Response
from quart_schema import document_request, document_response
from werkzeug.exceptions import NotFound

from headrace.frontend.chat.render import render_chat
from headrace.frontend.chat.tools.tool_use import tools_for_template
from headrace.frontend.context import Context
from headrace.frontend.generation.prompts import check_encodable, check_vocabulary
from headrace.frontend.http.openapi import document_plain
from headrace.frontend.http.parsing import read_body, read_body_as
from headrace.frontend.middleware.errors import json_response
from headrace.frontend.schemas.response_bodies import ErrorAnswer
from headrace.frontend.schemas.tokenize import (
    DetokenizeAnswer,
    DetokenizeRequest,
    TokenizeAnswer,
    TokenizeChatRequest,
    TokenizePromptRequest,
)
from headrace.frontend.text.model_tokenizer import THREAD_FROM_CHARS, ModelTokenizer


def blueprint(context: Context) -> Blueprint:
    routes = Blueprint("tokenize", __name__)

    @routes.post("/tokenize")
    @document_request(TokenizePromptRequest)
    @document_response(TokenizeAnswer)
    @document_response(ErrorAnswer, 400)
    @document_response(ErrorAnswer, 404)
    async def tokenize() -> Response:
        """Tokenize a prompt, or messages as the chat template writes them."""
        asked = await read_body_as(_request_model)
        if isinstance(asked, TokenizeChatRequest):
            return await _tokenize_chat(context, asked)
        return await _tokenize_prompt(context, asked)

    @routes.post("/detokenize")
    @document_request(DetokenizeRequest)
    @document_response(DetokenizeAnswer)
    @document_response(ErrorAnswer, 400)
    @document_response(ErrorAnswer, 404)
    async def detokenize() -> Response:
        """Decode tokens to text, special ones included."""
        request = await read_body(DetokenizeRequest)
        tokenizer = context.model(request.model).tokenizer
        check_vocabulary(request.tokens, tokenizer, "tokens")
        decoded = await tokenizer.decode(request.tokens, skip_special_tokens=False)
        if len(decoded) > THREAD_FROM_CHARS:
            return await asyncio.to_thread(json_response, {"prompt": decoded})
        return json_response({"prompt": decoded})

    @routes.get("/tokenizer_info")
    @document_plain("The tokenizer.", content_type="application/json")
    @document_plain("The operator has not allowed it.", 404, content_type="application/json")
    async def tokenizer_info() -> Response:
        """Describe the first model's tokenizer, if the operator has allowed it."""
        if not context.config.enable_tokenizer_info:
            raise NotFound
        return _tokenizer_info(context)

    return routes


def _request_model(body: dict[str, Any]) -> type[TokenizeChatRequest] | type[TokenizePromptRequest]:
    return TokenizeChatRequest if "messages" in body else TokenizePromptRequest


async def _tokenize_prompt(context: Context, request: TokenizePromptRequest) -> Response:
    tokenizer = context.model(request.model).tokenizer
    check_encodable(tokenizer, request.prompt, "prompt")
    token_ids = await tokenizer.encode(request.prompt, request.add_special_tokens)
    return await _answer(tokenizer, token_ids, bool(request.return_token_strs))


async def _tokenize_chat(context: Context, request: TokenizeChatRequest) -> Response:
    model = context.model(request.model)
    tokenizer = model.tokenizer
    for message in request.messages:
        check_encodable(tokenizer, message.content or "", "messages")
    rendered = await render_chat(
        tokenizer,
        request.messages,
        add_generation_prompt=request.add_generation_prompt,
        continue_final_message=request.continue_final_message,
        variables=request.chat_template_kwargs or {},
        request_template=request.chat_template,
        serving=model.group.serving,
        tools=tools_for_template(request.tools),
    )
    check_encodable(tokenizer, rendered, "messages")
    token_ids = await tokenizer.encode(rendered, request.add_special_tokens)
    return await _answer(tokenizer, token_ids, bool(request.return_token_strs))


async def _answer(tokenizer: ModelTokenizer, token_ids: list[int], with_strings: bool) -> Response:
    if len(token_ids) > THREAD_FROM_CHARS:
        return await asyncio.to_thread(_tokens_response, tokenizer, token_ids, with_strings)
    return _tokens_response(tokenizer, token_ids, with_strings)


def _tokens_response(
    tokenizer: ModelTokenizer, token_ids: list[int], with_strings: bool
) -> Response:
    strings = None
    if with_strings:
        strings = [tokenizer.backend.id_to_token(token_id) for token_id in token_ids]
    return json_response(
        {
            "count": len(token_ids),
            "max_model_len": tokenizer.info.max_model_len,
            "tokens": token_ids,
            "token_strs": strings,
        }
    )


def _tokenizer_info(context: Context) -> Response:
    model = context.model(None)
    info = model.tokenizer.info
    template = model.tokenizer.template
    return json_response(
        {
            "tokenizer_class": info.tokenizer_class,
            "backend": "tokenizers",
            "bos_token": info.bos_token,
            "eos_token": info.eos_token,
            "pad_token": info.pad_token,
            "unk_token": info.unk_token,
            "is_local": True,
            "local_files_only": False,
            "model_max_length": info.max_model_len,
            "chat_template": None if template is None else template.source,
            "truncation_side": "left",
            "name_or_path": model.root,
            "added_tokens_decoder": {str(id_): token for id_, token in info.added_tokens.items()},
        }
    )
