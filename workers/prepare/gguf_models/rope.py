"""Tell transformers how a GGUF file's rotary embedding is scaled, as llama.cpp reads it.

The frequency of the pair i of n rotated numbers is base**(-2i/n), divided by its factor (tensors
rope_freqs or rope_factors_*), and for the kinds linear and yarn by a common one.
"""

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from headrace.workers.prepare.gguf_header import GGUFError
from headrace.workers.prepare.gguf_models.facts import ModelFacts

Factors = npt.NDArray[np.float64]
_BASE = 10000.0  # llama.cpp's, where a file has none
# Architectures of which transformers rotates a part unless it is told.
_PARTIAL = {
    "chatglm", "glm4", "glm4moe", "phi2", "stablelm", "nemotron", "gptneox", "granitehybrid",
    "qwen3next", "qwen35", "qwen35moe", "minimax-m2",
}  # fmt: skip
# Bounds of wavelengths that models of the kind llama3 have: of low and high frequencies.
_LLAMA3_BOUNDS = (1.0, 4.0)
_LLAMA3_LENGTHS = (8192, 4096, 2048, 16384, 32768, 64, 128)


class RopeFactors:
    """The tensors of factors that a file has [pairs], by name."""

    def __init__(self, found: dict[str, Factors]) -> None:
        self.found = found

    def get(self, name: str) -> Factors | None:
        """Return factors; None if there are none, or they change nothing."""
        values = self.found.get(name)
        return None if values is None or bool((values == 1).all()) else values


def rope_parameters(facts: ModelFacts, factors: RopeFactors, head_dim: int) -> dict[str, Any]:
    """Return transformers' rope_parameters. Raises GGUFError for what they cannot say.

    head_dim: numbers of a head, of which a part may be rotated.
    """
    found = {"rope_theta": float(facts.get("rope.freq_base", _BASE)), **_scaling(facts, factors)}
    rotated = facts.get("rope.dimension_count", head_dim)
    if not 0 < rotated <= head_dim:
        raise GGUFError(f"rotates {rotated} of {head_dim} numbers")
    if rotated != head_dim or facts.architecture in _PARTIAL:
        found["partial_rotary_factor"] = rotated / head_dim
    return found


def _scaling(facts: ModelFacts, factors: RopeFactors) -> dict[str, Any]:
    kind = facts.get("rope.scaling.type", "linear")
    factor = facts.get("rope.scaling.factor", facts.get("rope.scale_linear", 0.0)) or 1.0
    factor = 1.0 if kind == "none" else float(factor)
    attention = float(facts.get("rope.scaling.attn_factor", 1.0))
    length = int(facts.get("rope.scaling.original_context_length", facts.need("context_length")))
    if facts.get("rope.scaling.alpha", 0.0):
        raise GGUFError("scales its rotary embedding by rope.scaling.alpha, which is not read")
    long, short = factors.get("rope_factors_long"), factors.get("rope_factors_short")
    plain = factors.get("rope_freqs")
    if kind == "yarn":
        if long is not None or short is not None or plain is not None:
            raise GGUFError("scales its rotary embedding in two ways, by yarn and by factors")
        return yarn_parameters(facts, factor, length, attention)
    if kind not in ("none", "linear", "longrope"):
        raise GGUFError(f"scales its rotary embedding by {kind!r}, which is not known")
    if "rope_factors_long" in factors.found:
        return _longrope(facts, factors, factor, length, attention)
    if plain is not None:
        return _by_factors(facts, plain * factor, attention)
    if attention != 1.0:
        raise GGUFError("says rope.scaling.attn_factor, but has no factors")
    return {"rope_type": "default"} if factor == 1 else {"rope_type": "linear", "factor": factor}


def yarn_parameters(
    facts: ModelFacts, factor: float, length: int, attention: float
) -> dict[str, Any]:
    """Return the same for yarn. length: of the context before it was stretched."""
    if facts.get("rope.scaling.yarn_ext_factor", 1.0) not in (1.0, -1.0):
        raise GGUFError("says rope.scaling.yarn_ext_factor, which is not read")
    multiplier = facts.get("rope.scaling.yarn_log_multiplier", 0.0)
    scale = _mscale(factor, 1.0)
    if multiplier:
        scale /= _mscale(factor, float(multiplier))
    scale = facts.get("rope.scaling.yarn_attn_factor", scale)
    return {
        "rope_type": "yarn",
        "factor": factor,
        "original_max_position_embeddings": length,
        "beta_fast": float(facts.get("rope.scaling.yarn_beta_fast", 32.0)),
        "beta_slow": float(facts.get("rope.scaling.yarn_beta_slow", 1.0)),
        "attention_factor": float(scale) * attention,
    }


def _mscale(factor: float, multiplier: float) -> float:
    return 1.0 if factor <= 1 else 0.1 * multiplier * math.log(factor) + 1.0


def _longrope(
    facts: ModelFacts, factors: RopeFactors, factor: float, length: int, attention: float
) -> dict[str, Any]:
    """Return the same for factors that differ for contexts beyond a length."""
    long = factors.found["rope_factors_long"]
    short = factors.found.get("rope_factors_short", long)
    return {
        "rope_type": "longrope",
        "long_factor": (long * factor).tolist(),
        "short_factor": (short * factor).tolist(),
        "attention_factor": attention,
        "original_max_position_embeddings": length,
        "factor": facts.need("context_length") / length,
    }


def _by_factors(facts: ModelFacts, factors: Factors, attention: float) -> dict[str, Any]:
    """Return the same for factors at any length: llama3's if they are, else as longrope.

    longrope changes over at the original length, which is the longest here.
    """
    if attention == 1.0:
        found = _llama3(float(facts.get("rope.freq_base", _BASE)), factors)
        if found is not None:
            return found
    return {
        "rope_type": "longrope",
        "short_factor": factors.tolist(),
        "long_factor": factors.tolist(),
        "attention_factor": attention,
        "original_max_position_embeddings": facts.need("context_length"),
    }


def _llama3(base: float, factors: Factors) -> dict[str, Any] | None:
    """Return llama3's parameters if they give the same factors, but for float32's rounding."""
    factor = float(factors.max())
    for length in _LLAMA3_LENGTHS:
        if np.allclose(llama3_factors(base, len(factors), factor, length), factors, rtol=1e-5):
            return {
                "rope_type": "llama3",
                "factor": factor,
                "low_freq_factor": _LLAMA3_BOUNDS[0],
                "high_freq_factor": _LLAMA3_BOUNDS[1],
                "original_max_position_embeddings": length,
            }
    return None


def llama3_factors(base: float, pairs: int, factor: float, length: int) -> Factors:
    """Return what Llama 3.1 divides its frequencies by [pairs]: low ones by the whole factor."""
    low, high = _LLAMA3_BOUNDS
    turns = length * base ** -(np.arange(pairs) / pairs) / (2 * math.pi)
    share = np.clip((turns - low) / (high - low), 0.0, 1.0)
    return np.asarray(1 / ((1 - share) / factor + share), np.float64)
