"""Check that a model rotates as its GGUF file says, by llama.cpp's formulas.

They are computed here from the metadata by themselves: what was read into transformers' words
could be right in itself and mean something else there.
"""

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from headrace.workers.prepare.gguf_header import GGUFError
from headrace.workers.prepare.gguf_models.facts import ModelFacts
from headrace.workers.prepare.gguf_models.rope import RopeFactors
from headrace.workers.prepare.gguf_models.values import FULL, SLIDING

Frequencies = npt.NDArray[np.float64]
_BUFFER = "inv_freq"
_SCALING = "attention_scaling"
_TOLERANCE = 1e-4
# Of yarn the converter's models round where the ramp begins and ends, but for gpt-oss'.
_UNROUNDED = "gpt-oss"
_UNSCALED_WINDOWS = ("gemma3", "gemma3n", "gemma4", "olmo2")


def check_rope(model: Any, facts: ModelFacts, factors: RopeFactors) -> None:
    """Compare all rotary embeddings of a model; raises GGUFError if one differs.

    model: on any device; its rotary embeddings are made anew.
    """
    for module in list(model.modules()):
        names = [name for name in module._buffers if name.endswith(_BUFFER)]
        names = [name for name in names if "original" not in name]
        if not names or not hasattr(module, "config"):
            continue
        made = type(module)(config=model.config)
        for name in names:
            kind = name.removesuffix(_BUFFER).rstrip("_") or FULL
            _compare(made, name, expected_rope(facts, factors, kind == SLIDING))


def _compare(made: Any, name: str, expected: tuple[Frequencies, float]) -> None:
    found = getattr(made, name).double().numpy()
    scale = getattr(made, name.replace(_BUFFER, _SCALING), 1.0)
    frequencies, attention = expected
    same = found.shape == frequencies.shape
    if not same or not np.allclose(found, frequencies, rtol=_TOLERANCE, atol=1e-15):
        raise GGUFError(f"rotates by other frequencies than {type(made).__name__} computes")
    if not math.isclose(scale, attention, rel_tol=_TOLERANCE):
        raise GGUFError(f"scales rotated numbers by {attention:.4f}, its model by {scale:.4f}")


def expected_rope(
    facts: ModelFacts, factors: RopeFactors, in_window: bool = False
) -> tuple[Frequencies, float]:
    """Return the angles by which pairs turn for each position [pairs], and the scale of results."""
    base = float(facts.get("rope.freq_base", 10000.0))
    count = facts.get("rope.dimension_count") or _head_size(facts)
    unscaled = in_window and facts.architecture in _UNSCALED_WINDOWS
    if in_window:
        default = 10000.0 if facts.architecture.startswith("gemma") else base
        count = facts.get("rope.dimension_count_swa", count)
        base = float(facts.get("rope.freq_base_swa", default))
    plain = base ** (-2.0 * np.arange(count // 2) / count)
    if unscaled:
        return plain, 1.0
    kind = facts.get("rope.scaling.type", "linear")
    stretch = facts.get("rope.scaling.factor", facts.get("rope.scale_linear", 0.0)) or 1.0
    stretch = 1.0 if kind == "none" else float(stretch)
    attention = float(facts.get("rope.scaling.attn_factor", 1.0))
    if kind == "yarn":
        return _yarn(facts, plain, base, stretch, attention)
    divisors = factors.found.get("rope_freqs", factors.found.get("rope_factors_short", 1.0))
    return plain / (divisors * stretch), attention


def _head_size(facts: ModelFacts) -> int:
    size = facts.get("attention.key_length")
    return int(size or facts.need("embedding_length") // facts.same("attention.head_count"))


def _yarn(
    facts: ModelFacts, plain: Frequencies, base: float, stretch: float, attention: float
) -> tuple[Frequencies, float]:
    """Return the same with yarn: slow pairs are stretched, fast ones are not."""
    length = facts.get("rope.scaling.original_context_length", facts.need("context_length"))
    fast = facts.get("rope.scaling.yarn_beta_fast", 32.0)
    slow = facts.get("rope.scaling.yarn_beta_slow", 1.0)
    pairs = len(plain)
    first, last = (
        pairs * math.log(length / (turns * 2 * math.pi)) / math.log(base) for turns in (fast, slow)
    )
    if facts.architecture != _UNROUNDED:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, 2 * pairs - 1)
    ramp = np.clip((np.arange(pairs) - first) / max(0.001, last - first), 0, 1)
    found = plain / stretch * ramp + plain * (1 - ramp)
    return found, attention * _yarn_scale(facts, stretch)


def _yarn_scale(facts: ModelFacts, stretch: float) -> float:
    given = facts.get("rope.scaling.yarn_attn_factor")
    if given is not None:
        return float(given)
    growth = 0.1 * math.log(stretch) if stretch > 1 else 0.0
    multiplier = float(facts.get("rope.scaling.yarn_log_multiplier", 0.0))
    if facts.architecture == "deepseek2":
        multiplier /= 0.1
        if multiplier and abs(multiplier - 1) > 1e-6:
            return 1.0
    return (1 + growth) / (1 + multiplier * growth)
