"""Log probabilities in the shapes of the three places that show them."""

from collections.abc import Iterable, Sequence
from typing import Any

from headrace.frontend.text.model_tokenizer import ModelTokenizer
from headrace.frontend.text.offsets import TextOffsets
from headrace.protocol.to_frontend import Logprobs

# JSON knows no minus infinity, which is what a token that cannot be chosen has.
LOWEST = -9999.0


class TokenNames:
    """What tokens are called in an answer: their text, or "token_id:5" if the request wants ids."""

    def __init__(self, text: ModelTokenizer, as_ids: bool) -> None:
        self.text = text
        self._as_ids = as_ids

    def name(self, token_id: int) -> str:
        if self._as_ids:
            return f"token_id:{token_id}"
        return self.text.token_bytes(token_id).decode("utf-8", "replace")

    def bytes(self, token_id: int) -> list[int]:
        return list(self.text.token_bytes(token_id))


def chat_logprobs(names: TokenNames, logprobs: Iterable[Logprobs]) -> dict[str, Any]:
    """`choices[].logprobs` of a chat."""
    content = []
    for at in logprobs:
        likeliest = zip(at.top_token_ids, at.top_logprobs, strict=True)
        entry = _chat_token(names, at.token_id, at.logprob)
        entry["top_logprobs"] = [_chat_token(names, *token) for token in likeliest]
        content.append(entry)
    return {"content": content}


def _chat_token(names: TokenNames, token_id: int, logprob: float) -> dict[str, Any]:
    return {
        "token": names.name(token_id),
        "logprob": max(logprob, LOWEST),
        "bytes": names.bytes(token_id),
    }


class CompletionLogprobs:
    """`choices[].logprobs` of a completion, in one piece or over the chunks of a stream: the
    offsets go on from one to the next.

    offsets: of the output's tokens in the text of the choice, what is echoed included.
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
        """For an echoed prompt; logprobs: from its second token on."""
        known = (None, *(logprobs or ()))
        shape = _empty()
        for token_id, at, offset in zip(token_ids, known, offsets, strict=False):
            self._add(shape, token_id, at, offset)
        return shape

    def of_output(
        self, logprobs: Iterable[Logprobs], onto: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """For output tokens; onto: what they are appended to."""
        shape = _empty() if onto is None else onto
        for at in logprobs:
            self._add(shape, at.token_id, at, self._offsets.next(at.token_id))
        return shape

    def _add(self, shape: dict[str, Any], token_id: int, at: Logprobs | None, offset: int) -> None:
        name = self._names.name(token_id)
        shape["text_offset"].append(offset)
        shape["tokens"].append(name)
        shape["token_logprobs"].append(None if at is None else max(at.logprob, LOWEST))
        shape["top_logprobs"].append(None if at is None else self._likeliest(name, at))

    def _likeliest(self, name: str, at: Logprobs) -> dict[str, float]:
        """The token itself, then the others; tokens of equal text show the first of them."""
        shown = {name: max(at.logprob, LOWEST)}
        for token_id, logprob in zip(at.top_token_ids, at.top_logprobs, strict=True):
            shown.setdefault(self._names.name(token_id), max(logprob, LOWEST))
        return shown


def _empty() -> dict[str, Any]:
    return {"text_offset": [], "token_logprobs": [], "tokens": [], "top_logprobs": []}


def prompt_logprobs(
    names: TokenNames, logprobs: Sequence[Logprobs]
) -> list[dict[str, dict[str, Any]] | None]:
    """`prompt_logprobs`: by token id; nothing is known of the first token."""
    shown: list[dict[str, dict[str, Any]] | None] = [None]
    for at in logprobs:
        ranked = [(at.token_id, at.logprob, at.rank)]
        tops = zip(at.top_token_ids, at.top_logprobs, strict=True)
        ranked += [(token_id, lp, rank) for rank, (token_id, lp) in enumerate(tops, start=1)]
        entry: dict[str, dict[str, Any]] = {}
        for token_id, logprob, rank in ranked:
            value = {
                "logprob": max(logprob, LOWEST),
                "rank": rank,
                "decoded_token": names.name(token_id),
            }
            entry.setdefault(str(token_id), value)
        shown.append(entry)
    return shown
