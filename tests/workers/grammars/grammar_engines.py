"""Engines without a model that follow grammars over a small tokenizer."""

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from llguidance import LLTokenizer

from headrace.protocol.common.grammar_compiler import load_tokenizer
from headrace.protocol.grammar import Grammar
from headrace.protocol.to_worker import Generate
from headrace.workers.engine.assemble import assemble_engine
from headrace.workers.engine.engine import Engine
from headrace.workers.engine.fake_runner import FakeRunner
from headrace.workers.grammars.grammar_manager import GrammarManager
from tests.workers.driving import request
from tests.workers.engine.overlapping import LateRunner

EOS = 2
ROWS = 520  # of the model: some more than the tokenizer's 512


@cache
def tokens(path: Path) -> LLTokenizer:
    return load_tokenizer(path, ROWS, [EOS])


def grammars(path: Path) -> GrammarManager:
    return GrammarManager(lambda: tokens(path), ROWS)


def grammar_engine(
    path: Path,
    *,
    late: bool = False,
    num_blocks: int = 128,
    choices: Sequence[int] = (),
    **options: Any,
) -> Engine:
    """path: a tokenizer.json. late: steps overlap. choices: tokens that are taken if they may."""
    kind = LateRunner if late else FakeRunner
    runner = kind(
        vocab_size=ROWS, max_model_len=512, num_blocks=num_blocks, block_size=16, choices=choices
    )
    limits = {"max_num_seqs": 16, "max_num_batched_tokens": 256, **options}
    return assemble_engine(runner, grammars=grammars(path), **limits)


def held(
    name: str,
    text: str,
    prompt: Sequence[int] = (5, 6, 7),
    *,
    after: tuple[str, ...] = (),
    replayed: tuple[int, ...] = (),
    **params: Any,
) -> Generate:
    """A request whose output keeps to a grammar."""
    params = {"max_tokens": 64, "eos_token_ids": (EOS,), **params}
    plain = request(name, prompt, replayed=replayed, **params)
    return replace(plain, grammar=Grammar("grammar", text, tuple(after)))


def schema(definition: Any) -> str:
    return json.dumps({"grammars": [{"json_schema": definition}]})
