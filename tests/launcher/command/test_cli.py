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


@pytest.mark.parametrize(
    ("word", "shown"),
    [
        ("max_model", "--max-model-len"),
        ("tensor-parallel", "--tensor-parallel-size: refused: a model runs on one device"),
        ("chunked-prefill", "--enable-chunked-prefill: accepted: "),
        ("rope", "--rope-theta: sets --hf-overrides.rope_theta"),
        ("nonsense", "no flag has 'nonsense' in its name"),
        ("all", "flags of the reference (vLLM"),
    ],
)
def test_help_with_a_word(word: str, shown: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["serve", f"--help={word}"])
    assert ended.value.code == 0
    out = capsys.readouterr().out
    assert shown in out
    assert ("--port" in out) == (word == "all")


def test_help_begins_with_our_own_flags_in_groups(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["serve", "--help"])
    out = capsys.readouterr().out
    titles = ["the pool:", "the model:", "serving:", "scaling:", "logging:", "flags of the ref"]
    places = [out.index(f"\n{title}") for title in titles]
    assert places == sorted(places)
    assert all(f"\n  --{name}" in out[: places[-1]] for name in ("port", "model", "workers"))


def test_command_is_the_module() -> None:
    command = Path(sys.executable).with_name("headrace")
    if not command.exists():
        pytest.skip("headrace is not installed beside this Python")
    done = subprocess.run(
        [command, "--help"], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == run("--help").stdout
