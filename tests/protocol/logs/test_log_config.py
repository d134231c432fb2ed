"""An operator's own configuration of the log, in each process."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.protocol.logs.logging_processes import lines_of, run

FORMAT = "mine %(levelname)s %(processName)s %(request_id)s %(message)s"
CONFIG: dict[str, Any] = {
    "formatters": {"mine": {"format": FORMAT}},
    "handlers": {"err": {"class": "logging.StreamHandler", "formatter": "mine"}},
    "root": {"level": "INFO", "handlers": ["err"]},
}
HOSTILE = "log.error('a\\n\\x1b[31mb %s', 'postgresql://me:s3cret@db')"


def test_handlers_are_those_of_the_configuration() -> None:
    assert lines_of("log.info('x')", log_config=CONFIG) == ["mine INFO chat-0.1 None x"]


def test_its_formats_get_safe_texts() -> None:
    (line,) = lines_of(HOSTILE, log_config=CONFIG)
    assert line == r"mine ERROR chat-0.1 None a\n\x1b[31mb postgresql://***@db"


def test_its_handlers_are_not_flooded() -> None:
    lines = lines_of("for _ in range(100):\n  log.error('x')", log_config=CONFIG)
    assert len(lines) == 2


def test_loggers_that_it_does_not_name_stay() -> None:
    config = {"loggers": {"other": {"level": "ERROR"}}}
    assert len(lines_of("log.info('x')", log_config=config)) == 1


def test_our_json_may_be_its_formatter() -> None:
    formatter = {"()": "headrace.protocol.logs.formats.JSONFormatter"}
    config = CONFIG | {"formatters": {"mine": formatter}}
    (line,) = lines_of("log.info('x')", log_config=config)
    assert json.loads(line)["message"] == "x"


@pytest.mark.parametrize("file", ["/nowhere/pool.log", "/dev/full"])
def test_process_lives_without_it(tmp_path: Path, file: str) -> None:
    handler = {"class": "logging.FileHandler", "filename": file, "formatter": "mine"}
    config = CONFIG | {"handlers": {"err": handler}}
    program = """
from headrace.protocol.common.process import become_child
become_child("chat-0.2", None, LogOptions.model_validate_json(sys.argv[2]))
log.info("lives")
print("lives")
"""
    done = run(program, second=json.dumps({"log_config": config}))
    assert done.stdout == "lives\n"
    assert "Traceback" not in done.stderr
    assert ("the log cannot be configured" in done.stderr) is (file == "/nowhere/pool.log")
