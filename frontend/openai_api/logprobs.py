"""Serialize log probabilities for chats, completions and prompts."""

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any

from headrace.frontend.text.model_tokenizer import ModelTokenizer
from headrace.frontend.text.offsets import TextOffsets
from headrace.protocol.to_frontend import Logprobs

# Stands for minus infinity, which JSON lacks: the logprob of a token that cannot be drawn.
MIN_LOGPROB = -9999.0


class TokenNames:
    """The names of tokens in a response: their text, or "token_id:5" if the request wants ids."""

    def __init__(self, text: ModelTokenizer, as_ids: bool) -> None:
        self.text = text
        self._as_ids = as_ids

    def name(self, token_id: int) -> str:
        """Return the name of a token; bytes that are not UTF-8 become U+FFFD."""
        if self._as_ids:
            return f"token_id:{token_id}"
        return self.text.token_bytes(token_id).decode("utf-8", "replace")

    def bytes(self, token_id: int) -> list[int]:
        """Return the UTF-8 bytes of a token."""
        return list(self.text.token_bytes(token_id))


def chat_logprobs(
    names: TokenNames, logprobs: Iterable[Logprobs], shows_sampled: bool = False
) -> dict[str, Any]:
    """Return `choices[].logprobs` of a chat: an entry for each output token.

    shows_sampled: whether the top tokens begin with the output token itself, as they do where a
        request has chosen the others by their ids.
    """
    content = []
    for at in logprobs:
        top_tokens: Iterable[tuple[int, float]]
        top_tokens = zip(at.top_token_ids, at.top_logprobs, strict=True)
        if shows_sampled:
            others = (token for token in top_tokens if token[0] != at.token_id)
            top_tokens = chain([(at.token_id, at.logprob)], others)
        entry = _chat_token(names, at.token_id, at.logprob)
        entry["top_logprobs"] = [_chat_token(names, *token) for token in top_tokens]
        content.append(entry)
    return {"content": content}


def _chat_token(names: TokenNames, token_id: int, logprob: float) -> dict[str, Any]:
    return {
        "token": names.name(token_id),
        "logprob": max(logprob, MIN_LOGPROB),
        "bytes": names.bytes(token_id),
    }


class CompletionLogprobs:
    """Serializes `choices[].logprobs` of a completion, at once or chunk by chunk.

    offsets: of the output tokens in the choice's text, which includes the echoed prompt; they
        continue from chunk to chunk.
    """

    def __init__(self, names: TokenNames, offsets: TextOffsets) -> None:
        self._names = names
        self._offsets = offsets

    def of_prompt(
        self,
        token_ids: Sequence[int],
        logprobs: Sequence[Logprobs] | None,
        offsets: Sequence[int],
    ) -> dict[str, Any]:
        """Return the logprobs of an echoed prompt. logprobs: from its second token on."""
        of_tokens = (None, *(logprobs or ()))
        lists = _empty_lists()
        for token_id, at, offset in zip(token_ids, of_tokens, offsets, strict=False):
            self._append(lists, token_id, at, offset)
        return lists

    def of_output(
        self, logprobs: Iterable[Logprobs], echoed: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Return the logprobs of output tokens, appended to those of an echoed prompt, if any."""
        lists = _empty_lists() if echoed is None else echoed
        for at in logprobs:
            self._append(lists, at.token_id, at, self._offsets.next(at.token_id))
        return lists

    def _append(
        self, lists: dict[str, Any], token_id: int, at: Logprobs | None, offset: int
    ) -> None:
        name = self._names.name(token_id)
        lists["text_offset"].append(offset)
        lists["tokens"].append(name)
        lists["token_logprobs"].append(None if at is None else max(at.logprob, MIN_LOGPROB))
        lists["top_logprobs"].append(None if at is None else self._top_logprobs(name, at))

    def _top_logprobs(self, name: str, at: Logprobs) -> dict[str, float]:
        """Return the token itself, then the top tokens; of tokens with one name, the first."""
        shown = {name: max(at.logprob, MIN_LOGPROB)}
        for token_id, logprob in zip(at.top_token_ids, at.top_logprobs, strict=True):
            shown.setdefault(self._names.name(token_id), max(logprob, MIN_LOGPROB))
        return shown


def _empty_lists() -> dict[str, Any]:
    return {"text_offset": [], "token_logprobs": [], "tokens": [], "top_logprobs": []}


def prompt_logprobs(
    names: TokenNames, logprobs: Sequence[Logprobs]
) -> list[dict[str, dict[str, Any]] | None]:
    """Return `prompt_logprobs`: for each prompt token, entries by token id; None for the first."""
    shown: list[dict[str, dict[str, Any]] | None] = [None]
    for at in logprobs:
        ranked = [(at.token_id, at.logprob, at.rank)]
        tops = zip(at.top_token_ids, at.top_logprobs, strict=True)
        ranked += [(token_id, value, rank) for rank, (token_id, value) in enumerate(tops, start=1)]
        entry: dict[str, dict[str, Any]] = {}
        for token_id, logprob, rank in ranked:
            value = {
                "logprob": max(logprob, MIN_LOGPROB),
                "rank": rank,
                "decoded_token": names.name(token_id),
            }
            entry.setdefault(str(token_id), value)
        shown.append(entry)
    return shown
