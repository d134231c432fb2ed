"""Find where tokens begin in the text that they make, counted in characters."""

from collections.abc import Sequence

from headrace.frontend.text.detokenizer import Detokenizer, join
from headrace.frontend.text.model_tokenizer import ModelTokenizer
from headrace.frontend.text.token_bytes import decode_complete


class TextOffsets:
    """Follows tokens through their text.

    A token that begins within a character begins where that character does; a token without text
    begins where the next one does. Offsets never decrease.

    detokenizer: of the same kind as the one that made the text.
    end: the length of the text so far.
    """

    def __init__(self, tokenizer: ModelTokenizer, detokenizer: Detokenizer, start: int = 0) -> None:
        self._tokenizer = tokenizer
        self._detokenizer = detokenizer
        self.end = start

    def next(self, token_id: int) -> int:
        """Return the offset of the next token."""
        previous_end = self.end
        shown = self._detokenizer.feed(token_id)
        self.end += len(shown)
        token_text = decode_complete(self._tokenizer.token_bytes(token_id))
        # A character that tokens before it left unfinished may be shown together with it.
        return (
            self.end - len(token_text)
            if token_text and shown.endswith(token_text)
            else previous_end
        )


def output_offsets(
    tokenizer: ModelTokenizer,
    skip_special_tokens: bool,
    prompt_token_ids: Sequence[int],
    start: int,
) -> TextOffsets:
    """Return the offsets of the tokens that follow a prompt.

    start: characters before them.
    """
    return TextOffsets(
        tokenizer, tokenizer.detokenizer(skip_special_tokens, prompt_token_ids), start
    )


def prompt_offsets(tokenizer: ModelTokenizer, token_ids: Sequence[int], echo: str) -> list[int]:
    """Return the offsets of a prompt's tokens in `echo`, the prompt as an answer shows it.

    Special tokens count where the echo shows them. If the prompt was truncated, the tokens are
    those of its end or its beginning.
    """
    decoded = join(tokenizer.start_detokenizer(), token_ids)
    start = len(echo) - len(decoded) if echo.endswith(decoded) else 0
    offsets: list[int] = []
    token_offsets = TextOffsets(tokenizer, tokenizer.start_detokenizer(), start)
    for token_id in token_ids:
        offset = token_offsets.end
        is_hidden = tokenizer.is_special(token_id) and not _is_shown(
            tokenizer.token_bytes(token_id).decode("utf-8", "replace"), echo, offset
        )
        offsets.append(min(offset if is_hidden else token_offsets.next(token_id), len(echo)))
    return offsets


def _is_shown(special: str, echo: str, offset: int) -> bool:
    """Return whether a special token comes next in the echo.

    Before it may be the sign for a character that tokens before it left unfinished.
    """
    return echo.startswith(special, offset) or echo.startswith("\ufffd" + special, offset)
