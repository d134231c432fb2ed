"""Grammars that outputs must match, as frontends send them to workers."""

from typing import Literal

from headrace.protocol.codec import Message

MAX_GRAMMAR_BYTES = 1024 * 1024

GrammarKind = Literal["json_schema", "json_object", "regex", "choice", "grammar", "structural_tag"]


class Grammar(Message):
    """The grammar of an output.

    kind: the kind of constraint in the request.
    text: the grammar as llguidance reads it: Lark, or JSON with a list of grammars. At most
        MAX_GRAMMAR_BYTES in UTF-8.
    after: texts after any of which the grammar applies; the output before it is free. Empty: it
        applies from the first output token on.
    """

    kind: GrammarKind
    text: str
    after: tuple[str, ...] = ()
