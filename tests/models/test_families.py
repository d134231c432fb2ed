"""A family for each mechanism, token by token against transformers, as the sweep does with all."""

import pytest

from tests.models.catalogue import Architecture, architectures
from tests.models.examine import examine
from tests.models.outcome import Outcome
from tests.models.prompts import draw_prompts
from tests.models.shape import Shape

# What each is for. Models of tests/workers/torch_runner/test_parity.py are not repeated.
FAMILIES = (
    "cohere2",  # windows beside layers without positions
    "gemma3n_text",  # keys and values of earlier layers
    "gemma4_text",  # and heads of several sizes
    "glm4",  # a part of each head rotates
    "minicpm3",  # latent keys and values
    "longcat_flash",  # latents, twice in a layer, and experts that do nothing
    "ernie4_5_moe",
    "nanochat",  # bounded logits
)
KNOWN = {each.name: each for each in architectures()}


def examined(architecture: Architecture) -> Outcome:
    return examine(architecture, 0, draw_prompts(0, Shape(), count=4, new=8))


@pytest.mark.parametrize("name", FAMILIES)
def test_texts_are_those_of_transformers(name: str) -> None:
    outcome = examined(KNOWN[name])
    assert outcome.kind == "served", outcome.reason
    assert outcome.preemptions > 0
    assert outcome.cached_tokens > 0
