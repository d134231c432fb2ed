"""Token by token against transformers' own greedy generation, in float32, for each family."""

import random

import pytest
import torch

from headrace.workers.attention.hook import AttentionHook
from headrace.workers.recurrent.probe import probe_layers
from headrace.workers.torch_runner.model_runner import ModelRunner
from headrace.workers.torch_runner.self_check import CHECKED_STATE_SLOTS, check_model
from tests.workers.recurrent.by_hand import ByHand
from tests.workers.recurrent.reference import NEW, draw, generated
from tests.workers.recurrent.tiny_recurrent import RECURRENT, tiny_recurrent

BLOCK = 4


@pytest.mark.parametrize("name", RECURRENT)
def test_chunks_batches_and_snapshots_give_the_texts_of_transformers(name: str) -> None:
    model = tiny_recurrent(name)
    rng = random.Random(3)
    prompts = [draw(rng, length) for length in (70, 33, 5, 1)]
    prompts.append(prompts[1][:20] + draw(rng, 9))  # begins as the second does
    texts = [generated(model, prompt) for prompt in prompts]
    assert sum(map(len, texts)) > 0.8 * NEW * len(prompts)
    assert len({token for text in texts for token in text}) > 12, "texts that tell nothing"
    hook = AttentionHook()
    with torch.inference_mode():
        shapes = probe_layers(model, hook)

    def make_runner(num_blocks: int, num_state_slots: int = CHECKED_STATE_SLOTS) -> ModelRunner:
        return ModelRunner(
            model,
            hook,
            max_model_len=128,
            num_blocks=num_blocks,
            block_size=BLOCK,
            state_shapes=shapes,
            num_state_slots=num_state_slots,
        )

    check_model(model, make_runner, 128, BLOCK)
    runner = make_runner(5 * 128 // BLOCK, 9)
    hand = ByHand(runner, free=[2, 5, 3, 4, 8])
    first, second = hand.begin(prompts[0]), hand.begin(prompts[1])
    hand.step({first: 40, second: 20}, saved={second: 7})
    third, fourth, fifth = (hand.begin(prompt) for prompt in prompts[2:])
    hand.step({second: 13, first: 7, third: 5, fourth: 1})
    fifth.blocks[: 20 // BLOCK] = second.blocks[: 20 // BLOCK]
    hand.done[fifth] = 20
    hand.step({first: 23, third: 1, second: 1, fourth: 1, fifth: 8}, restored={fifth: 7})
    sequences = [first, second, third, fourth, fifth]
    for _ in range(NEW):
        hand.step(dict.fromkeys(sequences, 1))
    for sequence, prompt, text in zip(sequences, prompts, texts, strict=True):
        assert list(sequence.token_ids)[len(prompt) :][: len(text)] == text
