"""Turn pairs of texts into one text each, by the template of a reranker that is a generator, or
without one by writing the second after the first."""

import asyncio
import re
from collections.abc import Sequence

from headrace.frontend.chat.render import render_chat
from headrace.frontend.context import ServedModel
from headrace.frontend.generation.prompts import check_encodable
from headrace.frontend.pooling.texts import EncodeInput, encode_texts, shortened_text
from headrace.frontend.schemas.chat import ChatMessage
from headrace.frontend.schemas.pooling.scoring import ScoringFields
from headrace.frontend.text.model_tokenizer import THREAD_FROM_CHARS, ModelTokenizer
from headrace.protocol.text import TextInfo

# The roles of a pair's texts. Chat templates that rerankers have inherited know neither.
_ROLES = [re.compile(rf"""["']{role}["']""") for role in ("query", "document")]


def joins_by_template(info: TextInfo) -> bool:
    """Return whether a model's template is one for pairs."""
    source = info.chat_template or ""
    return all(role.search(source) for role in _ROLES)


async def encode_rendered(request: ScoringFields, model: ServedModel) -> list[EncodeInput]:
    """Return the tokens of a request's pairs. Raises BadRequest, naming the field."""
    tokenizer = model.tokenizer
    firsts = await _shorten(request, tokenizer, request.firsts, request.max_tokens_per_query)
    seconds = await _shorten(request, tokenizer, request.seconds, request.max_tokens_per_doc)
    texts = []
    for index, second in enumerate(seconds):
        first = firsts[index if len(firsts) > 1 else 0]
        texts.append(await _render(request, model, first, second))
    return await encode_texts(
        request, model, texts, add_special_tokens=True, field=request.second_field
    )


async def _render(request: ScoringFields, model: ServedModel, first: str, second: str) -> str:
    if not joins_by_template(model.tokenizer.info):
        return first + second
    variables = dict(request.chat_template_kwargs or {})
    if request.instruction is not None:
        variables.setdefault("instruction", request.instruction)
    messages = [
        ChatMessage(role="query", content=first),
        ChatMessage(role="document", content=second),
    ]
    return await render_chat(
        model.tokenizer,
        messages,
        add_generation_prompt=False,
        continue_final_message=False,
        variables=variables,
        serving=model.group.serving,
    )


async def _shorten(
    request: ScoringFields, tokenizer: ModelTokenizer, texts: Sequence[str], limit: int
) -> list[str]:
    """Cut texts to a limit of tokens; 0: there is none."""
    kept = list(texts)
    if request.truncate_prompt_tokens is not None:
        kept = [shortened_text(text, tokenizer, request) for text in kept]
    for text in kept:
        check_encodable(tokenizer, text)
    if not limit:
        return kept
    shortened = []
    for text in kept:
        offsets = await _offsets(tokenizer, text)
        shortened.append(text if len(offsets) <= limit else text[: offsets[limit - 1][1]])
    return shortened


async def _offsets(tokenizer: ModelTokenizer, text: str) -> list[tuple[int, int]]:
    """Return where each token of a text lies in it."""

    def encode() -> list[tuple[int, int]]:
        return tokenizer.backend.encode(text, add_special_tokens=False).offsets

    return await asyncio.to_thread(encode) if len(text) > THREAD_FROM_CHARS else encode()
