"""Grammars of schemas over a small tokenizer, and what they accept."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from llguidance import LLTokenizer
from tokenizers import Tokenizer

from headrace.frontend.chat.tools.grammars import forced_arguments
from headrace.frontend.schemas.tools import FunctionDefinition
from headrace.frontend.structured.constraint import Constraint, json_schema, tools_constraint
from headrace.frontend.structured.normalise import grammar_text
from headrace.protocol.common.grammar_compiler import compile_grammar, load_tokenizer
from headrace.protocol.text import TextInfo

Accepts = Callable[[str], bool]


class Matching:
    """Compiles constraints. folder: the text folder of the tokenizer."""

    def __init__(self, folder: Path) -> None:
        path = TextInfo.tokenizer_file(folder)
        self._encoder = Tokenizer.from_file(str(path))
        self._tokens: LLTokenizer = load_tokenizer(path, self._encoder.get_vocab_size(), [2])

    def of(self, constraint: Constraint) -> Accepts:
        """Return whether a text is whole and conforms. Raises ValueError if there is no grammar."""
        text = grammar_text(constraint)
        compile_grammar(self._tokens, text)

        def accepts(written: str) -> bool:
            matcher = compile_grammar(self._tokens, text)
            ids = self._encoder.encode(written, add_special_tokens=False).ids
            return matcher.try_consume_tokens(ids) == len(ids) and matcher.is_accepting()

        return accepts

    def of_format(self, schema: Any, **options: Any) -> Callable[[Any], bool]:
        """Return whether a value conforms to the schema of a response_format."""
        found = json_schema(schema, "response_format")
        accepts = self.of(Constraint(found.kind, found.definition, found.field, **options))
        return lambda value: accepts(json.dumps(value))

    def of_tool(self, schema: Any) -> Callable[[Any], bool]:
        """Return whether arguments conform to the schema of a tool that must be called."""
        function = FunctionDefinition(name="f", parameters=schema)
        accepts = self.of(tools_constraint(forced_arguments(function)))
        return lambda value: accepts(json.dumps(value))
