"""Turn the prompts of requests into the prompts that workers get."""

import asyncio
from collections.abc import Sequence

from headrace.frontend.context import ServedModel
from headrace.frontend.errors import BadRequest
from headrace.frontend.generation.start_generation import Prompt
from headrace.frontend.schemas.completion import CompletionRequest
from headrace.frontend.schemas.generation import GenerationRequest
from headrace.frontend.text.model_tokenizer import ModelTokenizer


async def completion_prompts(
    request: CompletionRequest, tokenizer: ModelTokenizer, scope: str | None
) -> list[Prompt]:
    """Return the prompts of a completion. Raises BadRequest if one cannot be run.

    scope: see `encoding_scope`.
    """
    if not request.prompts:
        raise BadRequest("prompt: a prompt is required.", "prompt")
    texts = [prompt for prompt in request.prompts if isinstance(prompt, str)]
    if texts:  # either all prompts are texts, or all are token ids
        add_special_tokens = request.add_special_tokens
        return await _text_prompts(request, tokenizer, texts, add_special_tokens, "prompt", scope)
    prompts = []
    for prompt in [prompt for prompt in request.prompts if not isinstance(prompt, str)]:
        token_ids = _fit(request, tokenizer, prompt, "prompt")
        check_vocabulary(token_ids, tokenizer, "prompt")
        prompts.append(Prompt(token_ids, None))
        await asyncio.sleep(0)  # a million ids take a while: let other requests run
    return prompts


async def text_prompt(
    request: GenerationRequest,
    tokenizer: ModelTokenizer,
    prompt: str,
    add_special_tokens: bool,
    field: str = "prompt",
    scope: str | None = None,
) -> Prompt:
    """Tokenize a prompt that is text.

    field: the field that it comes from, for errors. scope: see `encoding_scope`.
    """
    texts = [prompt]
    return (await _text_prompts(request, tokenizer, texts, add_special_tokens, field, scope))[0]


def encoding_scope(request: GenerationRequest, model: ServedModel) -> str | None:
    """Return the scope within which the beginnings of a request's texts are tokenized once.

    Requests share them as they share cached blocks, since both can be told by their time: with the
    same adapter, tenant and `cache_salt`, and not at all where no blocks are shared.
    """
    if not model.group.engine.enable_prefix_caching:
        return None
    return f"{model.adapter}\0{model.salted(request.cache_salt)}"


async def _text_prompts(
    request: GenerationRequest,
    tokenizer: ModelTokenizer,
    texts: Sequence[str],
    add_special_tokens: bool,
    field: str,
    scope: str | None,
) -> list[Prompt]:
    is_truncated = request.truncate_prompt_tokens is not None
    for prompt in texts:
        check_encodable(tokenizer, prompt, field if is_truncated else "input_tokens")
    encoded = await tokenizer.encode_all(texts, add_special_tokens, scope)
    return [
        Prompt(_fit(request, tokenizer, token_ids, field), prompt)
        for prompt, token_ids in zip(texts, encoded, strict=True)
    ]


def check_encodable(tokenizer: ModelTokenizer, prompt: str, field: str = "input_tokens") -> None:
    """Raise BadRequest for a text that is too long however it is tokenized.

    Tokenizing it to find out would take seconds and a gigabyte. Applies also to a text that would
    be truncated afterwards.
    """
    if len(prompt) > tokenizer.encodable_chars:
        raise BadRequest(
            f"The prompt has {len(prompt)} characters, more than fit into the context of"
            f" {tokenizer.info.longest_text} tokens.",
            field,
        )


def check_vocabulary(token_ids: Sequence[int], tokenizer: ModelTokenizer, field: str) -> None:
    """Raise BadRequest for token ids that the model has no embedding for."""
    size = tokenizer.info.vocab_size
    if not token_ids:
        return
    wrong = min(token_ids) if min(token_ids) < 0 else max(token_ids)
    if not 0 <= wrong < size:
        raise BadRequest(
            f"{field}: token ids must be at least 0 and below {size}, not {wrong}.", field
        )


def _fit(
    request: GenerationRequest, tokenizer: ModelTokenizer, token_ids: list[int], field: str
) -> tuple[int, ...]:
    """Truncate a prompt as its request says.

    Keeps the end, or the beginning for truncation_side "right". Raises BadRequest if no token is
    left, or if the tokens leave no room for output.
    """
    truncate_to = request.truncate_prompt_tokens
    if truncate_to is not None:
        max_tokens = tokenizer.info.max_model_len - 1 if truncate_to == -1 else truncate_to
        keeps_left = request.truncation_side == "right"
        token_ids = (
            token_ids[:max_tokens]
            if keeps_left
            else token_ids[max(0, len(token_ids) - max_tokens) :]
        )
    if not token_ids and truncate_to == 0:
        field = "truncate_prompt_tokens"
        raise BadRequest(f"{field}: 0 leaves nothing of the prompt.", field)
    if not token_ids:
        raise BadRequest(f"{field}: the prompt must hold at least one token.", field)
    if len(token_ids) >= tokenizer.info.max_model_len:
        raise BadRequest(
            f"The prompt has {len(token_ids)} tokens; with at least one token of output that is"
            f" more than the context of {tokenizer.info.max_model_len} tokens.",
            "input_tokens",
        )
    return tuple(token_ids)
