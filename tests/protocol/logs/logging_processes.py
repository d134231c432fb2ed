"""Processes that log, for tests of what they write."""

import json
import subprocess
import sys
from typing import Any

PREAMBLE = """
import json, logging, sys
from headrace.protocol.log_options import LogOptions
from headrace.protocol.logs.set_up import set_up_logging
set_up_logging("chat-0.1", LogOptions.model_validate_json(sys.argv[1]))
log = logging.getLogger("headrace.frontend")
"""


def run(program: str, second: str = "", **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a program in a process whose log is set up with these options. second: its argument."""
    command = [sys.executable, "-P", "-c", PREAMBLE + program, json.dumps(options), second]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def lines_of(program: str, **options: Any) -> list[str]:
    """Return the lines that a program logs."""
    # Not splitlines, which also ends lines at characters that are none to a terminal.
    return run(program, **options).stderr.removesuffix("\n").split("\n")


def objects_of(program: str, **options: Any) -> list[dict[str, Any]]:
    """Return the objects that a program logs in JSON."""
    return [json.loads(line) for line in lines_of(program, log_format="json", **options)]
