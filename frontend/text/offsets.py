"""Where tokens begin in a text that is made of them, counted in characters."""

from collections.abc import Sequence

from headrace.frontend.text.detokenizer import Detokenizer, join
from headrace.frontend.text.model_tokenizer import ModelTokenizer
from headrace.frontend.text.token_bytes import whole_text


class TextOffsets:
    """Follows tokens through a text, by a detokenizer of the text's own kind.

    A token that begins within a character begins where that character does; one that leaves no
    text, where the next one does. Offsets never decrease. end: the length of the text so far.
    """

    def __init__(self, text: ModelTokenizer, detokenizer: Detokenizer, start: int = 0) -> None:
        self._text = text
        self._detokenizer = detokenizer
        self.end = start

    def next(self, token_id: int) -> int:
        """The offset of the next token."""
        before = self.end
        shown = self._detokenizer.feed(token_id)
        self.end += len(shown)
        own = whole_text(self._text.token_bytes(token_id))
        # Something unfinished before it may have been shown together with it.
        return self.end - len(own) if own and shown.endswith(own) else before


def output_offsets(
    text: ModelTokenizer, skip_special_tokens: bool, prompt_token_ids: Sequence[int], start: int
) -> TextOffsets:
    """For the tokens that are added to a prompt. start: characters that go before them."""
    return TextOffsets(text, text.detokenizer(skip_special_tokens, prompt_token_ids), start)


def prompt_offsets(text: ModelTokenizer, token_ids: Sequence[int], echo: str) -> list[int]:
    """The offsets of a prompt's tokens in `echo`, the prompt as an answer shows it.

    Special tokens count where the echo shows them. Of a prompt that was cut, the tokens are those
    of its end, or of its beginning.
    """
    decoded = join(text.start_detokenizer(), token_ids)
    start = len(echo) - len(decoded) if echo.endswith(decoded) else 0
    offsets: list[int] = []
    follower = TextOffsets(text, text.start_detokenizer(), start)
    for token_id in token_ids:
        at = follower.end
        is_hidden = text.is_special(token_id) and not echo.startswith(
            text.token_bytes(token_id).decode("utf-8", "replace"), at
        )
        offsets.append(min(at if is_hidden else follower.next(token_id), len(echo)))
    return offsets
