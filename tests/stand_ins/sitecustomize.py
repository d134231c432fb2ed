"""Stand in for outside software that misbehaves, in the processes that guard the server from it.

Python imports `sitecustomize` when it starts: a test puts this folder first on PYTHONPATH
(`python_path`). In a checker of grammars, in a process that renders a client's chat template and in
one that decodes audio, a text (or a file) that holds one of the words below then does what the word
says. In all others nothing changes.

The guards are tested so and not by inputs that really bring such software down.
"""

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any, BinaryIO

SLEEPS = "stand-in sleeps"  # longer than any deadline
ALLOCATES = "stand-in allocates"  # more than any bound, and reports that there is no more
DIES = "stand-in dies"  # of the same, as native code does and as the kernel lets processes do
WRITES = "stand-in writes"  # an answer that is larger than any bound

_TOO_LONG_S = 30.0
_TOO_MANY_BYTES = 2 * 1024**3  # never written to: a machine on which no bound holds is not harmed
_TOO_MANY_CHARS = 17 * 1024**2


def python_path() -> str:
    """Return the PYTHONPATH of processes that this module is to change."""
    before = os.environ.get("PYTHONPATH")
    return os.pathsep.join([str(Path(__file__).parent), *([before] if before else [])])


def misbehave(text: str) -> str:
    """Do what a text says; return it, or more."""
    if SLEEPS in text:
        time.sleep(_TOO_LONG_S)
    if ALLOCATES in text:
        bytes(_TOO_MANY_BYTES)
    if DIES in text:
        try:
            bytes(_TOO_MANY_BYTES)
        except MemoryError:
            os.kill(os.getpid(), signal.SIGKILL)
    return text + "x" * _TOO_MANY_CHARS if WRITES in text else text


def _change_compiler() -> None:
    from llguidance import LLMatcher

    from headrace.protocol.common import grammar_compiler

    def stand_in(tokenizer: Any, text: str, **options: Any) -> LLMatcher:
        return LLMatcher(tokenizer, misbehave(text), **options)

    vars(grammar_compiler)["LLMatcher"] = stand_in


def _change_templates() -> None:
    import jinja2

    render = jinja2.Template.render

    def stand_in(self: jinja2.Template, *values: Any, **named: Any) -> str:
        return misbehave(render(self, *values, **named))

    jinja2.Template.render = stand_in  # type: ignore[method-assign]


def _change_decoders() -> None:
    from headrace.frontend.audio import decode as module

    decode = module.decode

    def stand_in(file: BinaryIO, *values: Any) -> Any:
        file.seek(0)
        misbehave(file.read().decode("latin-1"))
        return decode(file, *values)

    vars(module)["decode"] = stand_in


if any(each.endswith("structured.checker") for each in sys.orig_argv):
    _change_compiler()
if any(each.endswith("chat.untrusted_template") for each in sys.orig_argv):
    _change_templates()
if any(each.endswith("audio.decoder") for each in sys.orig_argv):
    _change_decoders()
