"""Turn the texts of requests for numbers into the tokens that workers get."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

from headrace.frontend.context import ServedModel
from headrace.frontend.errors import BadRequest
from headrace.frontend.generation.prompts import check_encodable, check_vocabulary
from headrace.frontend.schemas.pooling.fields import TextOrIds
from headrace.frontend.text.model_tokenizer import ModelTokenizer
from headrace.protocol.pooling import PoolingTask
from headrace.protocol.text import PoolingInfo

SHORTENS = "truncate_prompt_tokens"  # the field that errors recommend


@dataclass(frozen=True, slots=True)
class EncodeInput:
    """A text as workers get it.

    text: as the client wrote it; None if it came as token ids. field: of the request, that held it.
    token_type_ids: of each token; empty: all are 0. prompt_length: tokens that are not pooled.
    compared_with: vectors of tokens that this text's are compared with; empty: they are not.
    route: the kind of the text, where the model tells kinds apart.
    """

    token_ids: tuple[int, ...]
    text: str | None
    token_type_ids: tuple[int, ...] = ()
    prompt_length: int = 0
    compared_with: bytes = b""
    route: str = ""
    field: str = "input"


class Truncation(Protocol):
    """The fields of a request that shorten its texts."""

    @property
    def truncate_prompt_tokens(self) -> int | None: ...

    @property
    def truncation_side(self) -> Literal["left", "right"] | None: ...


async def encode_inputs(
    request: Truncation,
    model: ServedModel,
    texts: Sequence[TextOrIds],
    *,
    add_special_tokens: bool,
    prompt_name: str | None = None,
    field: str = "input",
    task: PoolingTask = "score",
) -> list[EncodeInput]:
    """Tokenize texts, or check token ids; either all are texts, or all are ids.

    prompt_name: of the prompt before each text; None: the model's default. field: the field that
    they come from, for errors. task: what they are for.

    Raises BadRequest, naming the field, if one cannot be run.
    """
    strings = [text for text in texts if isinstance(text, str)]
    if not strings:
        ids = [each for each in texts if not isinstance(each, str)]
        inputs = await _check_ids(request, model, ids, field, _limit(model, task))
        return with_route(inputs, model, (prompt_name or "",))
    prompt = _prompt(pooling_of(model), prompt_name)
    inputs = await encode_texts(
        request,
        model,
        strings,
        add_special_tokens=add_special_tokens,
        prompt=prompt,
        field=field,
        task=task,
    )
    return with_route(inputs, model, (prompt_name or "",))


def with_route(
    inputs: list[EncodeInput], model: ServedModel, names: Sequence[str]
) -> list[EncodeInput]:
    """Return texts of the first of these kinds that the model tells apart; as they are if none."""
    route = next((name for name in names if name in pooling_of(model).routes), "")
    return [replace(each, route=route) for each in inputs] if route else inputs


async def encode_texts(
    request: Truncation,
    model: ServedModel,
    texts: Sequence[str],
    *,
    add_special_tokens: bool,
    prompt: str = "",
    field: str = "input",
    task: PoolingTask = "score",
) -> list[EncodeInput]:
    """Tokenize texts with a prompt before each; see `encode_inputs`."""
    tokenizer, info = model.tokenizer, pooling_of(model)
    is_cut = request.truncate_prompt_tokens is not None
    whole = [prompt + text for text in texts]
    if is_cut:
        whole = [shortened_text(text, tokenizer, request) for text in whole]
    if info.lowercases:
        whole = [text.lower() for text in whole]
    for text in whole:
        check_encodable(tokenizer, text, "input_tokens")
    encoded = await tokenizer.encode_all(whole, add_special_tokens)
    skipped = 0
    if prompt and not info.includes_prompt:
        skipped = await _prompt_length(tokenizer, prompt, add_special_tokens)
    around = tokenizer.special_around if add_special_tokens else ([], [])
    limit = _limit(model, task)
    return [
        _input(request, tokenizer, limit, token_ids, text, around, skipped, field)
        for text, token_ids in zip(texts, encoded, strict=True)
    ]


def pooling_of(model: ServedModel) -> PoolingInfo:
    """Return how a model pools; only of one that does."""
    info = model.tokenizer.info.pooling
    assert info is not None
    return info


def _limit(model: ServedModel, task: PoolingTask) -> int:
    """Return the most tokens of a text."""
    embedded = pooling_of(model).max_embed_len if task == "embed" else None
    return embedded or model.tokenizer.info.max_model_len


async def _check_ids(
    request: Truncation, model: ServedModel, texts: Sequence[list[int]], field: str, limit: int
) -> list[EncodeInput]:
    inputs = []
    for ids in texts:
        inputs.append(_input(request, model.tokenizer, limit, ids, None, ([], []), 0, field))
        check_vocabulary(inputs[-1].token_ids, model.tokenizer, field)
        await asyncio.sleep(0)  # a million ids take a while: let other requests run
    return inputs


def _input(
    request: Truncation,
    tokenizer: ModelTokenizer,
    limit: int,
    token_ids: list[int],
    text: str | None,
    around: tuple[list[int], list[int]],
    skipped: int,
    field: str,
) -> EncodeInput:
    """Truncate a text as its request says; the special tokens around it are kept.

    limit: of its tokens. Raises BadRequest if no token is left, or if there are more.
    """
    keep = request.truncate_prompt_tokens
    if keep is not None:
        keep = limit if keep == -1 else keep
        if keep > limit:
            name = "truncate_prompt_tokens"
            raise BadRequest(f"{name}: is more than the {limit} tokens of a text.", name)
        token_ids = _cut(token_ids, keep, side_of(request, tokenizer) == "left", around)
    if not token_ids:
        name = "truncate_prompt_tokens" if keep == 0 else field
        raise BadRequest(f"{name}: a text must have at least one token.", name)
    if len(token_ids) > limit:
        raise BadRequest(
            f"{field}: a text has {len(token_ids)} tokens, more than the {limit} that the model "
            f"takes ({SHORTENS} shortens texts).",
            "input_tokens",
        )
    skipped = min(skipped, len(token_ids) - 1)
    return EncodeInput(tuple(token_ids), text, prompt_length=skipped, field=field)


def _cut(
    token_ids: list[int], keep: int, keeps_end: bool, around: tuple[list[int], list[int]]
) -> list[int]:
    if len(token_ids) <= keep:
        return token_ids
    before, after = around
    room = keep - len(before) - len(after)
    if room <= 0:  # not even the special tokens have room
        return token_ids[len(token_ids) - keep :] if keeps_end else token_ids[:keep]
    inner = token_ids[len(before) : len(token_ids) - len(after)]
    kept = inner[len(inner) - room :] if keeps_end else inner[:room]
    return [*before, *kept, *after]


def shortened_text(text: str, tokenizer: ModelTokenizer, request: Truncation) -> str:
    """Cut off what truncation leaves out in any case: long texts take long to tokenize."""
    most = tokenizer.encodable_chars
    if len(text) <= most:
        return text
    return text[len(text) - most :] if side_of(request, tokenizer) == "left" else text[:most]


def side_of(request: Truncation, tokenizer: ModelTokenizer) -> Literal["left", "right"]:
    """Return the side on which texts are cut: that of the request, else the tokenizer's own."""
    info = tokenizer.info.pooling
    return request.truncation_side or ("right" if info is None else info.truncation_side)


def _prompt(info: PoolingInfo, name: str | None) -> str:
    """Return the prompt of a name; raises BadRequest if the model has none of it."""
    name = info.default_prompt if name is None else name
    if not name:
        return ""
    if name not in info.prompts and name in info.routes:
        return ""
    if name not in info.prompts:
        known = ", ".join(map(repr, info.prompts)) or "none"
        raise BadRequest(f"prompt_name: the model's prompts are {known}.", "prompt_name")
    return info.prompts[name]


async def _prompt_length(tokenizer: ModelTokenizer, prompt: str, add_special_tokens: bool) -> int:
    """Return how many tokens a prompt has by itself, without the special token that closes it."""
    token_ids = await tokenizer.encode(prompt, add_special_tokens)
    return len(token_ids) - (1 if token_ids and tokenizer.is_special(token_ids[-1]) else 0)
