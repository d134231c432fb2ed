"""What the log of a process shows: Headrace's records and those of libraries, in one format."""

import re
import subprocess
import sys

import pytest

PROGRAM = """
import logging, sys
from headrace.protocol.log_options import LogOptions
from headrace.protocol.logs.set_up import set_up_logging
set_up_logging("chat-0.1", LogOptions(log_level=sys.argv[1]))
{then}
for name in sys.argv[2:]:
    logger = logging.getLogger(name)
    for level in ("debug", "info", "warning", "error"):
        getattr(logger, level)("%s from %s", level, name)
"""


def log(level: str, *names: str, then: str = "") -> list[str]:
    command = [sys.executable, "-P", "-c", PROGRAM.format(then=then), level, *names]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == ""
    return done.stderr.splitlines()


def test_line_has_time_level_process_and_message() -> None:
    (line,) = log("error", "headrace.frontend")
    assert re.fullmatch(
        r"\d\d:\d\d:\d\d ERROR   chat-0\.1       error from headrace\.frontend", line
    )


@pytest.mark.parametrize(
    ("level", "shown"),
    [
        ("debug", ["debug", "info", "warning", "error"]),
        ("info", ["info", "warning", "error"]),
        ("warning", ["warning", "error"]),
        ("error", ["error"]),
    ],
)
@pytest.mark.parametrize("name", ["headrace", "headrace.launcher", "somelibrary.inner"])
def test_level_is_that_of_headrace_and_of_libraries(
    level: str, shown: list[str], name: str
) -> None:
    lines = log(level, name)
    assert [line.split()[3] for line in lines] == shown
    assert all(line.endswith(f"from {name}") for line in lines)


def test_library_that_sets_the_roots_level_does_not_silence_headrace() -> None:
    lines = log("info", "headrace.worker", then="logging.getLogger().setLevel('CRITICAL')")
    assert lines[0].endswith("info from headrace.worker")


def test_second_setup_replaces_the_first() -> None:
    """A forked worker has its fork server's handler: each record must be shown once."""
    lines = log("info", "headrace.worker", then="set_up_logging('chat-1.0', LogOptions())")
    assert len(lines) == 3
    assert all(" chat-1.0 " in line for line in lines)
