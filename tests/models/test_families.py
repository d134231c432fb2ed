"""A family for each mechanism, token by token against transformers, as the sweep does with all."""

import pytest

from tests.models.catalogue import Architecture, architectures
from tests.models.examine import examine
from tests.models.outcome import Outcome
from tests.models.prompts import draw_prompts
from tests.models.shape import Shape, draw_shape

# What each is for. Models of tests/workers/torch_runner (test_parity, test_attention_kinds,
# test_text_parts) and of tests/workers/recurrent are not repeated.
FAMILIES = (
    "cohere2",  # windows beside layers without positions
    "ernie4_5_moe",
    "gemma3n_text",  # keys and values of earlier layers
    "gemma4_text",  # and heads of several sizes
    "glm4",  # a part of each head rotates
    "longcat_flash",  # latents, twice in a layer, and experts that do nothing
    "nanochat",  # bounded logits
    "qwen3_next",  # gated delta rules beside attention
)
KNOWN = {each.name: each for each in architectures()}


def examined(architecture: Architecture) -> Outcome:
    return examine(architecture, 0, draw_prompts(0, Shape(), count=4, new=8))


@pytest.mark.parametrize("name", FAMILIES)
def test_texts_are_those_of_transformers(name: str) -> None:
    outcome = examined(KNOWN[name])
    assert outcome.kind in ("served", "text only"), outcome.reason
    assert outcome.preemptions > 0
    assert outcome.cached_tokens > 0


def test_seeds_draw_other_sizes_and_lengths() -> None:
    shapes = [draw_shape(seed) for seed in range(12)]
    assert len(set(shapes)) == 12
    assert {each.layers for each in shapes} == {1, 2, 3}
    assert any(each.hidden % 32 for each in shapes)
    assert {each.ties for each in shapes} == {False, True}
    lengths = [sorted(map(len, draw_prompts(seed, shapes[0]).first)) for seed in range(3)]
    assert lengths[0] != lengths[1] != lengths[2]
    assert all(each[0] == 5 and each[-1] == 300 for each in lengths)
