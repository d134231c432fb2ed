"""The command line, as a command and as a module."""

import subprocess
import sys
from pathlib import Path

import pytest

from headrace.launcher.command.cli import main


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-P", "-m", "headrace", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ["--version"],
        ["--help"],
        ["serve", "--help"],
        [],
        ["nonsense"],
        ["serve", "--nonsense"],
        ["coordinator", "--run-dir", "/nonexistent"],
    ],
)
def test_module_does_what_the_command_does(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    status = 0
    try:
        main(arguments)
    except SystemExit as error:
        status = int(error.code or 0)
    expected = capsys.readouterr()
    done = run(*arguments)
    assert (done.returncode, done.stderr) == (status, expected.err)
    assert done.stdout.split() == expected.out.split()
    assert done.stdout or done.stderr


def test_command_is_the_module() -> None:
    command = Path(sys.executable).with_name("headrace")
    if not command.exists():
        pytest.skip("headrace is not installed beside this Python")
    done = subprocess.run(
        [command, "--help"], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == run("--help").stdout
