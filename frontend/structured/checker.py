"""A process that compiles clients' grammars, so that an expensive one harms nothing else.

Reads a job as a line of JSON and answers with a line of JSON, one at a time. The parent process
limits the time of each job; this process limits its memory. Imports neither torch nor the
frontend's application.
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
    clean_reason,
    compile_grammar,
    load_tokenizer,
    matcher_error,
)
from headrace.protocol.common.process import become_child
from headrace.protocol.grammar import MAX_GRAMMAR_BYTES
from headrace.protocol.logs.set_up import inherited_options
from headrace.protocol.text import TextInfo

log = logging.getLogger("headrace.frontend.checkers")

_MAX_GRAMMAR_MEMORY_BYTES = 1024**3  # for grammars, besides the process itself and its tokenizers
_NICENESS = 5  # workers and frontends come first
# The first tokens of an output are tried, to see whether there are any and what their masks cost:
# seconds of one thread.
_TRIAL_TOKENS = 24
_MAX_MASK_S = 0.1


class Checker:
    """Answers jobs, and keeps the tokenizers that it has loaded."""

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
        except Exception as error:  # a bug here: restarting the process would take a second
            log.exception("checking a constraint failed")
            return {"error": f"it cannot be read ({type(error).__name__})"}

    def _load(self, model: str) -> None:
        """Load a text folder's tokenizer, and limit the memory that may be used besides it."""
        if model not in self._tokenizers:
            info = TextInfo.load(Path(model))
            path = TextInfo.tokenizer_file(Path(model))
            _limit_memory(resource.RLIM_INFINITY)
            self._tokenizers[model] = load_tokenizer(path, info.vocab_size, info.eos_token_ids)
            _limit_memory(_address_space_bytes() + _MAX_GRAMMAR_MEMORY_BYTES)

    def _check(self, tokenizer: LLTokenizer, constraint: dict[str, Any]) -> str:
        """Return the constraint's grammar, after checking that an output can begin with it."""
        text = grammar_text(Constraint(**constraint))
        if len(text.encode()) > MAX_GRAMMAR_BYTES:
            raise ValueError("as a grammar it is too long")
        matcher = compile_grammar(tokenizer, text)
        for _ in range(_TRIAL_TOKENS):
            _try_token(matcher)
            if matcher.is_stopped():
                break
        return text


def _try_token(matcher: LLMatcher) -> None:
    """Append the first token that may come next.

    Raises ValueError if there is none, or if finding it is too expensive.
    """
    started_s = time.thread_time()
    mask = matcher.compute_bitmask()
    if matcher.is_error():
        raise ValueError(f"no text conforms to it: {matcher_error(matcher)}")
    if time.thread_time() - started_s > _MAX_MASK_S:
        raise ValueError("it is too expensive to follow")
    byte = next(byte for byte, bits in enumerate(mask) if bits)
    bits = mask[byte]
    matcher.consume_token(byte * 8 + (bits & -bits).bit_length() - 1)


def _limit_memory(size: int) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (size, resource.RLIM_INFINITY))


def _address_space_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    return pages * resource.getpagesize()


def main() -> None:
    parser = argparse.ArgumentParser(prog="headrace-checker")
    parser.add_argument("--parent-pid", type=int, required=True)
    answers = sys.stdout.buffer  # which must wait, unlike a log
    become_child("checker", parser.parse_args().parent_pid, inherited_options())
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.nice(_NICENESS)
    checker = Checker()
    for line in sys.stdin.buffer:
        answer = checker.answer(json.loads(line))
        try:
            answers.write(json.dumps(answer).encode() + b"\n")
            answers.flush()
        except BrokenPipeError:  # the frontend was killed, and this process is about to be
            os._exit(0)  # without flushing the rest


if __name__ == "__main__":
    main()
