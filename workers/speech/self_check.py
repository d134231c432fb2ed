"""Check at start that a runner's logits are those of transformers' own layers."""

from typing import Any

import torch

from headrace.workers.attention.backend import AttentionBatch, Span
from headrace.workers.attention.hook import attention_of
from headrace.workers.native.capturing.forward_pass import PassInputs
from headrace.workers.speech.backing import DecoderRows, SpeechBacking, SpeechFacts
from headrace.workers.speech.passes import WhisperPasses

_POSITIONS = 48  # of the window that is heard: layers and weights are the same for all
_TOKENS = 13
_EXACT, _ROUNDED, _QUANTIZED = 2e-3, 0.15, 0.5


@torch.inference_mode()
def logits_error(
    passes: WhisperPasses,
    backing: SpeechBacking,
    facts: SpeechFacts,
    block_size: int,
    is_exact: bool,
) -> float:
    """Return the root mean square of the difference to transformers' logits over their spread.

    Of the tokens of a prompt and the one after it: the largest if the program must be exact, else
    the median, as rounding alone makes some rows differ more. The backing has no caches then.
    """
    generator = torch.Generator().manual_seed(0)
    positions = min(_POSITIONS, facts.positions)
    features = torch.randn((facts.mel_bins, 2 * positions), generator=generator)
    token_ids = torch.randint(facts.vocab_size, (_TOKENS,), generator=generator).tolist()
    expected = _expected(passes, features, token_ids)
    blocks = range(-(-_TOKENS // block_size))
    backing.start(len(blocks), 2)
    try:
        backing.encode(features, 1)
        prompt, last = _TOKENS - 1, [_TOKENS - 1]
        before = AttentionBatch([], [Span(0, prompt, 0, blocks)])
        after = AttentionBatch([Span(0, 1, prompt, blocks)], [])
        steps = (
            DecoderRows(token_ids[:-1], range(prompt), range(prompt), before, [1]),
            DecoderRows(token_ids[-1:], last, [0], after, [1]),
        )
        found = torch.cat([backing.decode(step)[0].float().clone() for step in steps])
    finally:
        backing.stop()
    difference = (found - expected[:, : found.shape[1]]).square().mean(dim=1).sqrt()
    errors = difference / expected.std(dim=1)
    return float(errors.max() if is_exact else errors.median())


def tolerance(dtype: torch.dtype, is_rounded: bool) -> float:
    """Return the error that rounding alone may make.

    is_rounded: whether weights or caches are less exact than the model.
    """
    if is_rounded:
        return _QUANTIZED
    return _EXACT if dtype == torch.float32 else _ROUNDED


def _expected(passes: WhisperPasses, features: torch.Tensor, token_ids: list[int]) -> torch.Tensor:
    """Return transformers' logits [tokens, vocabulary]."""
    device, dtype = passes.device, passes.dtype
    model: Any = passes.model
    with attention_of(model, "eager"):
        vectors = passes.listen(stem_rows(passes, features.to(device, dtype)))
        ids = torch.tensor([token_ids], device=device)
        places = torch.arange(len(token_ids), device=device).unsqueeze(0)
        inputs = PassInputs(ids, places, places, places[0], source=vectors)
        return passes.decode(inputs)[0].float().cpu()


def stem_rows(passes: WhisperPasses, features: torch.Tensor) -> PassInputs:
    """Return what the encoder reads of features [mel bins, frames]."""
    bins, frames = features.shape
    rows = features.new_zeros((frames + 2, bins))
    rows[1:-1] = features.t()
    windows = rows.as_strided((1, frames, 3 * bins), (0, bins, 1))
    nothing = torch.zeros(0, dtype=torch.long, device=features.device)
    stem = passes.stem(PassInputs(nothing, nothing, nothing, nothing, windows))
    hidden = features.new_zeros((frames + 2, stem.shape[2]))
    hidden[1:-1] = stem[0]
    size, positions = hidden.shape[1], frames // 2
    strided = hidden.as_strided((1, positions, 3 * size), (0, 2 * size, 1))
    places = torch.arange(positions, device=features.device).unsqueeze(0)
    return PassInputs(nothing, places, nothing, nothing, strided)
