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
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    if model.is_dir():
        loaded = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    else:
        loaded = AutoModelForCausalLM.from_pretrained(
            model.parent, gguf_file=model.name, dtype=torch.float32
        )
    # No token ends a text here.
    loaded.generation_config = GenerationConfig(eos_token_id=None)  # type: ignore[no-untyped-call]
    return loaded.eval()  # type: ignore[no-untyped-call]


def greedy(model: Any, prompts: Sequence[Sequence[int]], length: int) -> list[Greedy]:
    """Return `length` greedy tokens after each prompt, past any end token."""
    return [_greedy_one(model, torch.tensor([list(prompt)]), length) for prompt in prompts]


def _greedy_one(model: Any, prompt: torch.Tensor, length: int) -> Greedy:
    options = GenerationConfig(max_new_tokens=length, do_sample=False)  # type: ignore[no-untyped-call]
    output = model.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        generation_config=options,
        return_dict_in_generate=True,
        output_logits=True,
    )
    best = torch.cat(output.logits).float().topk(2).values
    gaps = (best[:, 0] - best[:, 1]).tolist()
    return Greedy(output.sequences[0, prompt.shape[1] :].tolist(), gaps)
