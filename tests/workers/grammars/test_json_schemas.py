"""Two hundred JSON schemas: the output conforms, or the schema was rejected in time."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
from tokenizers import Tokenizer

from headrace.frontend.errors import BadRequest
from headrace.frontend.structured.checker_pool import CheckerPool, CheckFailed
from headrace.frontend.structured.constraint import json_schema
from headrace.protocol.text import TextInfo
from tests.workers.driving import run
from tests.workers.grammars.grammar_engines import EOS, grammar_engine, held
from tests.workers.grammars.json_schemas import all_schemas, odd

DEADLINE_S = 1.5
# What texts consist of where their schemas leave a choice, so that they come to an end.
SHORT = ['"', '"', "}", "]", "1", "a", ",", "b", "0", "-", ":", "{", "["]


def rejected_or_grammar(
    checkers: CheckerPool, model: str, schema: dict[str, Any]
) -> tuple[str | None, str | None]:
    """The reason, or the grammar."""
    try:
        return None, checkers._check(model, json_schema(schema, "x"))
    except (BadRequest, CheckFailed) as error:
        return str(error), None


def test_outputs_conform_or_the_schema_is_refused_in_time(fake_model: Path, tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_file(str(fake_model / "tokenizer.json"))
    tokenizer.save(str(TextInfo.tokenizer_file(tmp_path)))
    TextInfo(max_model_len=512, vocab_size=520, eos_token_ids=(EOS,)).save(tmp_path)
    schemas = all_schemas()
    assert len(schemas) >= 200
    benign = len(schemas) - len(odd())
    checkers = CheckerPool(1, DEADLINE_S)
    found = []
    try:
        rejected_or_grammar(checkers, str(tmp_path), {})  # starts it
        for schema in schemas:
            found.append(rejected_or_grammar(checkers, str(tmp_path), schema))
    finally:
        checkers.close()
    choices = [tokenizer.encode(text).ids[0] for text in SHORT]
    path = fake_model / "tokenizer.json"
    engine = grammar_engine(path, choices=choices, num_blocks=2048, max_num_seqs=256)
    requests = [
        replace(held(str(n), text, (5, 6, n % 200), max_tokens=200))
        for n, (_, text) in enumerate(found)
        if text is not None
    ]
    answers = run(engine, [(0, one) for one in requests])
    valid = 0
    for name, answer in answers.items():
        if answer.finish_reason == "rejected":  # some costs show only as a text continues
            assert int(name) >= benign, (schemas[int(name)], answer)
            assert "the grammar cannot be followed: " in (answer.outputs[-1].error or "")
        if answer.finish_reason in ("length", "rejected"):
            continue
        text = tokenizer.decode([token for token in answer.tokens if token != EOS])
        validator = jsonschema.Draft202012Validator(schemas[int(name)])
        errors = [error.message for error in validator.iter_errors(json.loads(text))]
        assert not errors, (schemas[int(name)], text)
        valid += 1
    rejected = [schema for schema, (reason, _) in zip(schemas, found, strict=True) if reason]
    assert valid > 0.8 * benign, (valid, len(answers), rejected)
    assert all(reason is None or "\n" not in reason for reason, _ in found)
