"""Find the added tokens in a text, as the tokenizers library does before all else.

What lies between two of them is tokenized by itself: that is why long texts can be tokenized in
parts.
"""

import re
from collections.abc import Iterable

from tokenizers import AddedToken

_Trie = dict[str, "_Trie"]
_END = ""  # marks a node at which a token ends


def splitting_texts(added: Iterable[AddedToken]) -> list[str] | None:
    """Return the texts of the tokens that are looked for in the text as it was written.

    Returns None if one of them also takes white space, or only counts as a word of its own: such
    tokens depend on their neighbours. The tokens that are looked for after normalization are left
    out; they stay within the parts.
    """
    first = [token for token in added if not token.normalized]
    if any(token.lstrip or token.rstrip or token.single_word for token in first):
        return None
    return [token.content for token in first if token.content]


def pattern_of(texts: Iterable[str]) -> re.Pattern[str]:
    """Return a pattern that finds the leftmost of these texts, and of several there the longest.

    Its time is linear in the text, however many texts there are: no two of its branches begin with
    the same character.
    """
    trie: _Trie = {}
    for text in texts:
        node = trie
        for character in text:
            node = node.setdefault(character, {})
        node[_END] = {}
    return re.compile(_expression(trie))


def _expression(node: _Trie) -> str:
    """Return an expression of all that follows a node."""
    prefix = ""
    while len(node) == 1 and _END not in node:
        ((character, node),) = node.items()
        prefix += re.escape(character)
    branches = [re.escape(key) + _expression(next_) for key, next_ in node.items() if key]
    if not branches:
        return prefix
    optional = "?" if _END in node else ""
    return f"{prefix}(?:{'|'.join(branches)}){optional}"
