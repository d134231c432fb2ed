"""Collect prompts and outputs as the model has them, for `enable_response_messages`."""

from typing import Any

from headrace.frontend.generation.choice import Delta
from headrace.frontend.generation.start_generation import Prompt


class RawMessages:
    """The prompts and outputs of a response's turns."""

    def __init__(self) -> None:
        self._prompts: list[Prompt] = []
        self._texts: list[list[str]] = []
        self._token_ids: list[list[int]] = []

    def begin_turn(self, prompt: Prompt) -> None:
        """Note the prompt of a turn."""
        self._prompts.append(prompt)
        self._texts.append([])
        self._token_ids.append([])

    def add(self, delta: Delta) -> None:
        """Add an output of the turn."""
        self._texts[-1].append(delta.text)
        self._token_ids[-1] += delta.token_ids

    def to_json(self) -> dict[str, Any]:
        """Return the fields of the response; prompts of later turns are among the outputs."""
        turns = []
        for prompt, texts, token_ids in zip(
            self._prompts, self._texts, self._token_ids, strict=True
        ):
            turns.append(_message(prompt.text or "", list(prompt.token_ids)))
            turns.append(_message("".join(texts), token_ids))
        return {"input_messages": turns[:1], "output_messages": turns[1:]}


def _message(text: str, token_ids: list[int]) -> dict[str, Any]:
    return {"type": "raw_message_tokens", "message": text, "tokens": token_ids}
