"""What transformers generates after random prompts."""

import random

import torch
from transformers import GenerationConfig, PreTrainedModel

from tests.workers.recurrent.tiny_recurrent import VOCAB

NEW = 8
NEAR = 1e-4  # logits closer than this are equal but for float32's rounding


@torch.inference_mode()
def generated(model: PreTrainedModel, prompt: list[int]) -> list[int]:
    """What transformers generates after a prompt, up to the first near tie."""
    settings = GenerationConfig(  # type: ignore[no-untyped-call]
        do_sample=False,
        max_new_tokens=NEW,
        pad_token_id=0,
        output_logits=True,
        return_dict_in_generate=True,
    )
    result = model.generate(  # type: ignore[operator]
        torch.tensor([prompt]),
        attention_mask=torch.ones((1, len(prompt)), dtype=torch.long),
        generation_config=settings,
    )
    tokens: list[int] = result.sequences[0, len(prompt) :].tolist()
    for number, logits in enumerate(result.logits):
        best = logits[0].topk(2).values
        if best[0] - best[1] < NEAR:
            return tokens[:number]
    return tokens


def draw(rng: random.Random, length: int) -> list[int]:
    return [rng.randrange(VOCAB) for _ in range(length)]
