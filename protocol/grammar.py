"""What an output must conform to, as frontends describe it to workers."""

from dataclasses import dataclass
from typing import Literal

MAX_GRAMMAR_BYTES = 1024 * 1024
MAX_AFTER_TOKENS = 64

GrammarKind = Literal["json_schema", "json_object", "regex", "choice", "grammar", "structural_tag"]


@dataclass(frozen=True, slots=True)
class Grammar:
    """The grammar of an output.

    kind: the kind of constraint in the request, a GrammarKind.
    text: the grammar as llguidance reads it: Lark, or JSON with a list of grammars. At most
        MAX_GRAMMAR_BYTES in UTF-8.
    after: token ids after which the grammar applies, at most MAX_AFTER_TOKENS; the output before
        them is free. Empty: it applies from the first output token on.
    """

    kind: str
    text: str
    after: tuple[int, ...] = ()
