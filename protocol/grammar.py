"""What a text must conform to, as frontends describe it to workers."""

from headrace.protocol.codec import Message

MAX_GRAMMAR_BYTES = 1024 * 1024
MAX_AFTER_TOKENS = 64


class Grammar(Message):
    """The rules that the tokens of a text must keep to.

    kind: what the request called it: json_schema, json_object, regex, choice, grammar or
        structural_tag.
    text: the rules as llguidance reads them: Lark, or JSON with a list of grammars. At most
        MAX_GRAMMAR_BYTES in UTF-8.
    after: token ids after which the rules begin to hold, at most MAX_AFTER_TOKENS; what comes
        before is free. Empty: they hold from the first output token on.
    """

    kind: str
    text: str
    after: tuple[int, ...] = ()
