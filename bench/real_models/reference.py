"""Greedy tokens of transformers, on the weights that a model file has."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, GenerationConfig
from transformers.utils import logging

from bench.real_models.outcomes import Greedy


def load_reference(model: Path, threads: int) -> Any:
    """Load a folder, or a GGUF as transformers' own reader and the gguf package see it, as fp32."""
    torch.set_num_threads(threads)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    if model.is_dir():
        loaded = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    else:
        loaded = AutoModelForCausalLM.from_pretrained(
            model.parent, gguf_file=model.name, dtype=torch.float32
        )
    loaded.generation_config = GenerationConfig(eos_token_id=None)  # none ends a text here
    return loaded.eval()


def greedy(model: Any, prompts: Sequence[Sequence[int]], length: int) -> list[Greedy]:
    """Return `length` greedy tokens after each prompt, past any end token."""
    return [_greedy_one(model, torch.tensor([list(prompt)]), length) for prompt in prompts]


def _greedy_one(model: Any, prompt: torch.Tensor, length: int) -> Greedy:
    output = model.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        generation_config=GenerationConfig(max_new_tokens=length, do_sample=False),
        return_dict_in_generate=True,
        output_logits=True,
    )
    best = torch.cat(output.logits).float().topk(2).values
    gaps = (best[:, 0] - best[:, 1]).tolist()
    return Greedy(output.sequences[0, prompt.shape[1] :].tolist(), gaps)
