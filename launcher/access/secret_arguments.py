"""Keep secrets of the command line and the environment from other processes."""

import ctypes
import os
import re
from collections.abc import Iterator, MutableMapping, Sequence
from pathlib import Path

# By the words that may follow: one, or all up to the next flag.
SECRET_FLAGS = {"--api-key": True, "--admin-key": True, "--hf-token": False}
# systemd's units keep flags in the last.
_VARIABLES = ("HEADRACE_API_KEY", "HEADRACE_ADMIN_KEY", "VLLM_API_KEY", "HEADRACE_FLAGS")
_FLAG = re.compile(rb"--?[A-Za-z]")
_PROC = Path("/proc/self")


def forget_variables(environment: MutableMapping[str, str] = os.environ) -> None:
    """Remove the variables that hold keys, so that no child inherits them."""
    for name in _VARIABLES:
        environment.pop(name, None)


def hide_arguments() -> None:
    """Overwrite secrets in this process's command line, which all users of the machine may read.

    Does nothing where the kernel does not say where it is.
    """
    try:
        words = (_PROC / "cmdline").read_bytes().split(b"\0")
        fields = (_PROC / "stat").read_text().rpartition(")")[2].split()
        start, end = int(fields[45]), int(fields[46])  # fields 48 and 49: arg_start, arg_end
    except (OSError, ValueError, IndexError):
        return
    if not start or sum(map(len, words)) + len(words) - 1 != end - start:
        return
    for offset, size in secret_places(words):
        ctypes.memset(start + offset, ord("*"), size)


def secret_places(words: Sequence[bytes]) -> Iterator[tuple[int, int]]:
    """Yield where the secrets of a command line are, and their sizes."""
    offset, left = 0, 0.0  # how many secrets may follow
    for word in words:
        written, equals, value = word.partition(b"=")
        if _FLAG.match(word):
            takes_many = SECRET_FLAGS.get(written.decode("utf-8", "replace").replace("_", "-"))
            left = 0.0
            if takes_many is not None and equals:
                yield offset + len(written) + 1, len(value)
            elif takes_many is not None:
                left = float("inf") if takes_many else 1.0
        elif left:
            yield offset, len(word)
            left -= 1
        offset += len(word) + 1
