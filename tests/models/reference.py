"""What transformers' own class generates, one prompt at a time."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers

NEAR = 1e-4  # logits closer than this, relative to their size, may come in any order


@dataclass(frozen=True)
class Text:
    """An answer: its tokens, and before which of them the two best logits were too near."""

    tokens: list[int]
    first_tie: int


class Reference:
    """A folder's model in transformers' own class, with its own attention and cache."""

    def __init__(self, folder: Path, class_name: str) -> None:
        model_class = getattr(transformers, class_name)
        model: Any = model_class.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="eager"
        ).eval()
        self._models = [model]
        inner = getattr(model, "language_model", None)
        if inner is not None and hasattr(inner, "generate"):
            self._models.append(inner)

    @torch.inference_mode()
    def text(self, prompt: list[int], new: int) -> Text:
        """Return the greedy answer of `new` tokens to a prompt.

        Some classes generate only from pictures: then their own model of text does.
        """
        try:
            return self._text(prompt, new)
        except (TypeError, AttributeError, ValueError):
            if len(self._models) == 1:
                raise
            self._models = self._models[1:]
            return self._text(prompt, new)

    def _text(self, prompt: list[int], new: int) -> Text:
        settings = transformers.GenerationConfig(  # type: ignore[no-untyped-call]
            do_sample=False, max_new_tokens=new, pad_token_id=0, output_logits=True,
            return_dict_in_generate=True,
        )  # fmt: skip
        result = self._models[0].generate(
            input_ids=torch.tensor([prompt]),
            attention_mask=torch.ones((1, len(prompt)), dtype=torch.long),
            generation_config=settings,
        )
        return Text(result.sequences[0, len(prompt) :].tolist(), _first_tie(result.logits))

    @torch.inference_mode()
    def confirms(self, prompt: list[int], tokens: list[int]) -> bool:
        """Return whether passes over whole texts, without a cache, find these tokens.

        Some classes generate other texts, such as where a cache is dropped and not made anew.
        """
        for number, token in enumerate(tokens):
            ids = torch.tensor([prompt + tokens[:number]])
            row = self._models[0](input_ids=ids, use_cache=False).logits[:, -1]
            if _first_tie([row]) == 0:
                return True
            if int(row.argmax()) != token:
                return False
        return True


def _first_tie(logits: list[torch.Tensor]) -> int:
    for number, row in enumerate(logits):
        best = row[0].float().topk(2).values
        if not torch.isfinite(best).all():
            raise ArithmeticError("the reference's logits are no numbers")
        if float(best[0] - best[1]) < NEAR * float(best[0].abs()):
            return number
    return len(logits)


def distinct_share(texts: list[Text]) -> float:
    """Return the share of tokens that differ from all before them in their text."""
    return sum(len(set(text.tokens)) for text in texts) / sum(len(text.tokens) for text in texts)
