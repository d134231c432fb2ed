"""A process that compiles clients' grammars, so that one that takes too much harms nothing else.

A line of JSON in, a line out, one at a time. Whoever started it bounds the time of each; here the
memory is bounded. Imports neither torch nor the frontend's application.
"""

import argparse
import json
import logging
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any

from llguidance import LLMatcher, LLTokenizer

from headrace.frontend.structured.constraint import Constraint
from headrace.frontend.structured.normalise import grammar_text
from headrace.protocol.common.grammar_compiler import (
    compile_grammar,
    load_tokenizer,
    matcher_error,
    clean_reason,
)
from headrace.protocol.common.process import become_child
from headrace.protocol.grammar import MAX_GRAMMAR_BYTES
from headrace.protocol.text import TextInfo

log = logging.getLogger(__name__)

_MEMORY_BYTES = 1024**3  # for grammars, besides what the process and its tokenizers take
_NICENESS = 5  # workers and frontends come first
# A text is begun to see whether it can be, and what its masks cost in seconds of one thread.
_BEGUN_TOKENS = 24
_MASK_S = 0.1


class Checker:
    """Answers jobs; keeps the tokenizers that it has read."""

    def __init__(self) -> None:
        self._tokenizers: dict[str, LLTokenizer] = {}

    def answer(self, job: dict[str, Any]) -> dict[str, Any]:
        if "load" in job:
            self._load(job["load"])
            return {}
        try:
            return {"text": self._check(self._tokenizers[job["model"]], job["constraint"])}
        except (ValueError, RecursionError, MemoryError) as error:
            return {"error": clean_reason(str(error) or "it is too large")}
        except Exception as error:  # a fault of ours: to start again would take a second
            log.exception("a constraint could not be checked")
            return {"error": f"it cannot be read ({type(error).__name__})"}

    def _load(self, model: str) -> None:
        """Read a text folder's tokenizer, and bound the memory beyond what that takes."""
        if model not in self._tokenizers:
            info = TextInfo.load(Path(model))
            path = TextInfo.tokenizer_file(Path(model))
            _limit_memory(resource.RLIM_INFINITY)
            self._tokenizers[model] = load_tokenizer(path, info.vocab_size, info.eos_token_ids)
            _limit_memory(_own_bytes() + _MEMORY_BYTES)

    def _check(self, tokenizer: LLTokenizer, constraint: dict[str, Any]) -> str:
        """The constraint's grammar, which compiles and allows a text to begin."""
        text = grammar_text(Constraint(**constraint))
        if len(text.encode()) > MAX_GRAMMAR_BYTES:
            raise ValueError("as a grammar it is too long")
        matcher = compile_grammar(tokenizer, text)
        for _ in range(_BEGUN_TOKENS):
            _begin(matcher)
            if matcher.is_stopped():
                break
        return text


def _begin(matcher: LLMatcher) -> None:
    """Take the first token that may come next. ValueError if there is none, or at what price."""
    started_s = time.thread_time()
    mask = matcher.compute_bitmask()
    if matcher.is_error():
        raise ValueError(f"no text conforms to it: {matcher_error(matcher)}")
    if time.thread_time() - started_s > _MASK_S:
        raise ValueError("it is too expensive to follow")
    place = next(place for place, bits in enumerate(mask) if bits)
    bits = mask[place]
    matcher.consume_token(place * 8 + (bits & -bits).bit_length() - 1)


def _limit_memory(size: int) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (size, resource.RLIM_INFINITY))


def _own_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    return pages * resource.getpagesize()


def main() -> None:
    parser = argparse.ArgumentParser(prog="headrace-checker")
    parser.add_argument("--parent-pid", type=int, required=True)
    become_child("checker", parser.parse_args().parent_pid, "warning")
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.nice(_NICENESS)
    checker = Checker()
    for line in sys.stdin.buffer:
        answer = checker.answer(json.loads(line))
        try:
            sys.stdout.buffer.write(json.dumps(answer).encode() + b"\n")
            sys.stdout.buffer.flush()
        except BrokenPipeError:  # its frontend has been killed, as this process is about to be
            os._exit(0)  # without another try to write what is left


if __name__ == "__main__":
    main()
