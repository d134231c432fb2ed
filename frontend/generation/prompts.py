"""Prompts as requests give them to prompts as workers take them."""

import asyncio
from collections.abc import Sequence

from headrace.frontend.errors import BadRequest
from headrace.frontend.generation.start_generation import Prompt
from headrace.frontend.schemas.completion import CompletionRequest
from headrace.frontend.schemas.generation import GenerationRequest
from headrace.frontend.text.model_tokenizer import ModelTokenizer


async def completion_prompts(request: CompletionRequest, text: ModelTokenizer) -> list[Prompt]:
    """The prompts of a completion. BadRequest for one that cannot be run."""
    if not request.prompts:
        raise BadRequest("prompt: a prompt is required.", "prompt")
    texts = [prompt for prompt in request.prompts if isinstance(prompt, str)]
    if texts:  # prompts are all texts, or all token ids
        return await _text_prompts(request, text, texts, request.add_special_tokens, "prompt")
    prompts = []
    for prompt in [prompt for prompt in request.prompts if not isinstance(prompt, str)]:
        token_ids = _fitted(request, text, prompt, "prompt")
        check_vocabulary(token_ids, text, "prompt")
        prompts.append(Prompt(token_ids, None))
        await asyncio.sleep(0)  # a million ids take a while, so that others get their turn
    return prompts


async def text_prompt(
    request: GenerationRequest,
    text: ModelTokenizer,
    prompt: str,
    add_special_tokens: bool,
    param: str = "prompt",
) -> Prompt:
    """A prompt that is text. param: the field that it comes from."""
    return (await _text_prompts(request, text, [prompt], add_special_tokens, param))[0]


async def _text_prompts(
    request: GenerationRequest,
    text: ModelTokenizer,
    texts: Sequence[str],
    add_special_tokens: bool,
    param: str,
) -> list[Prompt]:
    is_cut = request.truncate_prompt_tokens is not None
    for prompt in texts:
        check_encodable(text, prompt, param if is_cut else "input_tokens")
    encoded = await text.encode_all(texts, add_special_tokens)
    return [
        Prompt(_fitted(request, text, token_ids, param), prompt)
        for prompt, token_ids in zip(texts, encoded, strict=True)
    ]


def check_encodable(text: ModelTokenizer, prompt: str, param: str = "input_tokens") -> None:
    """BadRequest for a text that is too long however it is tokenized; tokenizing it to find that
    out would take seconds and a gigabyte. Holds even for a text that is to be cut afterwards."""
    if len(prompt) > text.encodable_chars:
        raise BadRequest(
            f"The prompt has {len(prompt)} characters, more than fit into the context of"
            f" {text.info.max_model_len} tokens.",
            param,
        )


def check_vocabulary(token_ids: Sequence[int], text: ModelTokenizer, param: str) -> None:
    """BadRequest for ids that the model has no embedding for."""
    size = text.info.vocab_size
    if token_ids and not (min(token_ids) >= 0 and max(token_ids) < size):
        raise BadRequest(f"{param}: token ids must be at least 0 and below {size}.", param)


def _fitted(
    request: GenerationRequest, text: ModelTokenizer, token_ids: list[int], param: str
) -> tuple[int, ...]:
    """The ids that are kept of a prompt: the last ones, unless the right side is to be cut.
    BadRequest if there are none, or more than leave room for output."""
    wanted = request.truncate_prompt_tokens
    if wanted is not None:
        keep = text.info.max_model_len - 1 if wanted == -1 else wanted
        kept_left = request.truncation_side == "right"
        token_ids = token_ids[:keep] if kept_left else token_ids[max(0, len(token_ids) - keep) :]
    if not token_ids and wanted == 0:
        param = "truncate_prompt_tokens"
        raise BadRequest(f"{param}: 0 leaves nothing of the prompt.", param)
    if not token_ids:
        raise BadRequest(f"{param}: the prompt must hold at least one token.", param)
    if len(token_ids) >= text.info.max_model_len:
        raise BadRequest(
            f"The prompt has {len(token_ids)} tokens; with at least one token of output that is"
            f" more than the context of {text.info.max_model_len} tokens.",
            "input_tokens",
        )
    return tuple(token_ids)
