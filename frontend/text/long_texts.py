"""Tokenize long texts in parts that the library would tokenize by themselves.

A text is cut before added tokens, such as those between the messages of a chat. The token ids of
the parts of earlier texts are remembered, so that a chat's next turn only costs what has been added
to it.
"""

import hashlib
import re
from array import array
from collections.abc import Iterable, Sequence
from itertools import chain, pairwise

from tokenizers import Tokenizer

from headrace.frontend.text.added_tokens import pattern_of, splitting_texts
from headrace.frontend.text.encoded_prefixes import EncodedPrefixes
from headrace.frontend.text.word_encoder import Piece, WordEncoder

# A part is cut before the first added token after so many characters. Shorter ones would tell who
# measures times more about others' texts, and cost more than they save.
MIN_PART_CHARS = 1024
# Of the token ids of one model, in one frontend: some 200 chats of 70,000 tokens.
CACHE_BYTES = 64 * 1024 * 1024


class LongTextEncoder:
    """Returns the same token ids as the tokenizer itself, without those of special tokens around.

    cache_bytes: of the token ids to remember.
    """

    def __init__(self, backend: Tokenizer, cache_bytes: int = CACHE_BYTES) -> None:
        self._backend = backend
        added = backend.get_added_tokens_decoder()
        texts = splitting_texts(added.values())
        self._pattern = pattern_of(texts) if texts else None
        self._words = None if self._pattern is None else WordEncoder.of(backend)
        self.prefixes = EncodedPrefixes(cache_bytes)

    def encode(self, text: str, scope: str | None = None) -> list[int]:
        """Return the token ids of a text.

        scope: what is remembered of texts with the same scope may be used; None: nothing may.
        """
        if scope is None:
            return self._encode_parts([text])[0]
        parts = self._parts(text)
        digests = _digests(scope, parts)
        found = [self.prefixes.get(digest) for digest in digests]
        missing = [index for index, token_ids in enumerate(found) if token_ids is None]
        encoded = self._encode_parts([parts[index] for index in missing])
        for index, token_ids in zip(missing, encoded, strict=True):
            found[index] = entry = array("I", token_ids)
            if index < len(parts) - 1:  # the last ends with the text, where none may be cut again
                self.prefixes.put(digests[index], entry)
        return list(chain.from_iterable(token_ids for token_ids in found if token_ids is not None))

    def _parts(self, text: str) -> list[str]:
        """Return the parts of a text; where they are cut depends only on what is before."""
        cuts = [0]
        for found in self._added_tokens(text):
            if found.start() - cuts[-1] >= MIN_PART_CHARS:
                cuts.append(found.start())
        return [text[start:end] for start, end in pairwise([*cuts, len(text)])]

    def _added_tokens(self, text: str) -> Iterable[re.Match[str]]:
        return () if self._pattern is None else self._pattern.finditer(text)

    def _encode_parts(self, parts: Sequence[str]) -> list[list[int]]:
        if self._words is not None:
            return self._words.encode([self._pieces(part) for part in parts])
        # Of the tokenizer's methods, only those for batches release the GIL. One part at a time: a
        # batch of several would take all processors.
        encode = self._backend.encode_batch_fast
        return [encode([part], add_special_tokens=False)[0].ids for part in parts]

    def _pieces(self, part: str) -> list[Piece]:
        pieces, end = list[Piece](), 0
        for found in self._added_tokens(part):
            pieces += (Piece(part[end : found.start()]), Piece(found[0], is_added=True))
            end = found.end()
        return [*pieces, Piece(part[end:])]


def _digests(scope: str, parts: Iterable[str]) -> list[bytes]:
    """Return a digest for each part, of all text up to its end."""
    scope_bytes = scope.encode("utf-8", "surrogatepass")
    digest = hashlib.blake2b(len(scope_bytes).to_bytes(8), digest_size=32)
    digest.update(scope_bytes)
    digests = []
    for part in parts:
        digest.update(part.encode())
        digests.append(digest.digest())
    return digests
