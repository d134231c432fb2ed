"""Find the architecture of a GGUF file."""

from dataclasses import replace

from headrace.workers.prepare.gguf_header import GGUFError
from headrace.workers.prepare.gguf_models.convolutions import CONVOLUTIONS
from headrace.workers.prepare.gguf_models.deltas import DELTAS
from headrace.workers.prepare.gguf_models.dense import DENSE
from headrace.workers.prepare.gguf_models.facts import ModelFacts
from headrace.workers.prepare.gguf_models.gemmas import GEMMAS
from headrace.workers.prepare.gguf_models.latent import LATENTS
from headrace.workers.prepare.gguf_models.mamba_names import BAMBA_LAYER, GRANITE_DENSE
from headrace.workers.prepare.gguf_models.mambas import MAMBAS
from headrace.workers.prepare.gguf_models.mixtures import MIXTRAL, MIXTURES
from headrace.workers.prepare.gguf_models.older import FALCON_40B, OLDER
from headrace.workers.prepare.gguf_models.parts import OUTER
from headrace.workers.prepare.gguf_models.targets import Architecture

ARCHITECTURES = {
    **DENSE,
    **MIXTURES,
    **LATENTS,
    **GEMMAS,
    **OLDER,
    **DELTAS,
    **MAMBAS,
    **CONVOLUTIONS,
}


def find_architecture(facts: ModelFacts) -> Architecture:
    """Return the architecture of a file. Raises GGUFError if it is none that is served."""
    name = facts.architecture
    if name not in ARCHITECTURES:
        raise GGUFError(f"the architecture {name!r} is not read from GGUF: give safetensors")
    found = ARCHITECTURES[name]
    if name == "llama" and facts.metadata.get(f"{name}.expert_count"):
        return MIXTRAL
    if name == "falcon" and facts.has("attn_norm_2.weight"):
        return replace(found, layer=FALCON_40B)
    if name == "granitehybrid":
        if f"{name}.logit_scale" not in facts.metadata:
            outer = {**OUTER, "output_norm": "model.final_layernorm"}
            return replace(found, layer=BAMBA_LAYER, outer=outer)
        if not facts.has("ffn_down_exps.weight"):
            return replace(found, layer=GRANITE_DENSE)
    return found
