"""Turn pairs of texts into the tokens that a cross-encoder gets."""

import asyncio
from collections.abc import Sequence

from headrace.frontend.context import ServedModel
from headrace.frontend.errors import BadRequest
from headrace.frontend.generation.prompts import check_encodable
from headrace.frontend.pooling.rendered_pairs import encode_rendered, joins_by_template
from headrace.frontend.pooling.texts import EncodeInput, pooling_of, shortened_text, side_of
from headrace.frontend.schemas.pooling.scoring import ScoringFields
from headrace.frontend.text.model_tokenizer import ModelTokenizer

_YIELD_EVERY = 64  # pairs that are joined before other requests may run


async def encode_pairs(request: ScoringFields, model: ServedModel) -> list[EncodeInput]:
    """Return the tokens of a request's pairs.

    Raises BadRequest, naming the field, if one has too many tokens, or none.
    """
    tokenizer = model.tokenizer
    if joins_by_template(tokenizer.info) or not pooling_of(model).separates_pairs:
        return await encode_rendered(request, model)
    info = pooling_of(model)
    firsts = await _encode(request, tokenizer, request.firsts, info.lowercases)
    seconds = await _encode(request, tokenizer, request.seconds, info.lowercases)
    firsts = [_kept(ids, request.max_tokens_per_query) for ids in firsts]
    seconds = [_kept(ids, request.max_tokens_per_doc) for ids in seconds]
    room = _room(request, tokenizer)
    inputs = []
    for index, second in enumerate(seconds):
        first = firsts[index if len(firsts) > 1 else 0]
        text = f"{request.firsts[index if len(firsts) > 1 else 0]}\n{request.seconds[index]}"
        inputs.append(_join(request, tokenizer, first, second, room, text, info.has_token_types))
        if index % _YIELD_EVERY == 0:
            await asyncio.sleep(0)
    return inputs


def check_limits(request: ScoringFields, model: ServedModel) -> None:
    """Raise BadRequest if a limit of tokens is as much as all that the model takes."""
    longest = model.tokenizer.info.max_model_len
    for name in ("max_tokens_per_query", "max_tokens_per_doc"):
        if getattr(request, name) >= longest:
            raise BadRequest(f"{name}: must be less than the {longest} tokens of a text.", name)


def check_pairs(request: ScoringFields) -> None:
    """Raise BadRequest unless there is one first text for all, or one for each second one."""
    firsts, seconds = len(request.firsts), len(request.seconds)
    if firsts not in (1, seconds):
        name = request.second_field
        raise BadRequest(
            f"{name}: {firsts} texts of {request.first_field} go with as many of {name}, not with "
            f"{seconds} (1:1, 1:N and N:N are possible).",
            name,
        )


async def _encode(
    request: ScoringFields, tokenizer: ModelTokenizer, texts: Sequence[str], lowercases: bool
) -> list[list[int]]:
    whole = list(texts)
    if request.truncate_prompt_tokens is not None:
        whole = [shortened_text(text, tokenizer, request) for text in whole]
    for text in whole:
        check_encodable(tokenizer, text)
    if lowercases:
        whole = [text.lower() for text in whole]
    return await tokenizer.encode_all(whole, add_special_tokens=False)


def _room(request: ScoringFields, tokenizer: ModelTokenizer) -> int | None:
    """Return how many tokens of its texts a pair keeps; None: all, or it is an error."""
    keep, limit = request.truncate_prompt_tokens, tokenizer.info.max_model_len
    if keep is None:
        return None
    name = "truncate_prompt_tokens"
    if keep > limit:
        raise BadRequest(f"{name}: is more than the {limit} tokens of a text.", name)
    room = (limit if keep == -1 else keep) - tokenizer.pair_template.num_special
    if room < 1:
        raise BadRequest(f"{name}: leaves no room for a token of the texts.", name)
    return room


def _join(
    request: ScoringFields,
    tokenizer: ModelTokenizer,
    first: list[int],
    second: list[int],
    room: int | None,
    text: str,
    has_types: bool,
) -> EncodeInput:
    template, limit = tokenizer.pair_template, tokenizer.info.max_model_len
    if room is not None:
        kept = _shares(len(first), len(second), room)
        side = side_of(request, tokenizer)
        first = _kept(first, kept[0], side, all_at=None)
        second = _kept(second, kept[1], side, all_at=None)
    token_ids = template.join(first, second)
    name = request.second_field
    if not token_ids:
        raise BadRequest(f"{name}: a pair of texts must have at least one token.", name)
    if len(token_ids) > limit:
        raise BadRequest(
            f"{name}: a pair of texts has {len(token_ids)} tokens, more than the {limit} that the "
            "model takes (truncate_prompt_tokens shortens texts).",
            "input_tokens",
        )
    types = template.join_types(len(first), len(second)) if has_types else ()
    return EncodeInput(token_ids, text, types, field=name)


def _kept(
    token_ids: list[int], count: int, side: str = "right", all_at: int | None = 0
) -> list[int]:
    """Return the tokens of a text that are kept. all_at: the count that stands for all."""
    if count == all_at or len(token_ids) <= count:
        return token_ids
    return token_ids[len(token_ids) - count :] if side == "left" else token_ids[:count]


def _shares(first: int, second: int, room: int) -> tuple[int, int]:
    """Return how many tokens of two texts are kept: those of the longer one go first."""
    if first + second <= room:
        return first, second
    short, long = sorted((first, second))
    long = max(short, room - short)
    if short + long > room:
        short, long = room // 2, room // 2 + room % 2
    return (short, long) if first <= second else (long, short)
