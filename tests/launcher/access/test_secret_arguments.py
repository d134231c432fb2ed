"""Secrets of the command line and the environment stay in the process that was given them."""

import os
import subprocess
import sys

import pytest

from headrace.launcher.access.secret_arguments import forget_variables, secret_places

COMMAND = [sys.executable, "-c"]
HIDE = """
import sys
from pathlib import Path
from headrace.launcher.access.secret_arguments import hide_arguments
hide_arguments()
print(Path("/proc/self/cmdline").read_text().replace(chr(0), " "))
print(sys.argv[1:])
"""


@pytest.mark.parametrize(
    ("words", "hidden"),
    [
        ("serve --api-key one two --port 8", "serve --api-key *** *** --port 8"),
        ("serve --api_key one two", "serve --api_key *** ***"),
        ("serve --api-key=one model", "serve --api-key=*** model"),
        ("serve --api-key=a=b", "serve --api-key=***"),
        ("serve --admin-key ключ --host x", "serve --admin-key ******** --host x"),
        ("serve --hf-token one model", "serve --hf-token *** model"),
        ("serve --hf_token=one -tp 1", "serve --hf_token=*** -tp 1"),
        ("serve --api-key", "serve --api-key"),
        ("serve --api-key -5 x", "serve --api-key ** *"),
        ("serve --api-key-file keys.toml --insecure", "serve --api-key-file keys.toml --insecure"),
    ],
)
def test_places_of_secrets(words: str, hidden: str) -> None:
    line = bytearray(words.replace(" ", "\0").encode())
    for offset, size in secret_places(bytes(line).split(b"\0")):
        line[offset : offset + size] = b"*" * size
    assert line.decode().replace("\0", " ") == hidden


def test_a_process_hides_its_own() -> None:
    words = ["serve", "--api-key", "one-é", "two", "--host", "x y"]
    done = subprocess.run([*COMMAND, HIDE, *words], capture_output=True, text=True, check=True)
    shown, known = done.stdout.strip().splitlines()[-2:]
    assert shown.endswith("serve --api-key ****** *** --host x y ")
    assert known == str(words)  # the process itself has read them before


def test_variables_are_forgotten() -> None:
    names = ("HEADRACE_API_KEY", "HEADRACE_ADMIN_KEY", "VLLM_API_KEY", "HEADRACE_FLAGS")
    environment = dict.fromkeys(names, "secret") | {"HEADRACE_CACHE": "x", "PATH": "y"}
    forget_variables(environment)
    assert environment == {"HEADRACE_CACHE": "x", "PATH": "y"}
    forget_variables(environment)
    assert not [name for name in names if name in os.environ]
