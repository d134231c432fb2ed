"""The tables of flags in the documentation say what the options' descriptions say."""

import subprocess
import sys
from pathlib import Path

import pytest

from headrace.launcher.command.flag_help import flag_table, help_text
from headrace.launcher.command.flags import FLAGS, Flag
from headrace.launcher.command.options import option_fields
from headrace.launcher.command.reference import reference_flags
from headrace.launcher.command.variables import variables

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "flag_tables.py"


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-P", str(SCRIPT), *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_tables_are_those_of_the_options() -> None:
    done = run("--check")
    assert done.returncode == 0, done.stdout + done.stderr


def test_stale_table_is_found_and_made_anew(tmp_path: Path) -> None:
    document = tmp_path / "README.md"
    text = (ROOT / "README.md").read_text()
    document.write_text(text.replace("| address to listen on |", "| somewhere |"))
    done = run("--check", document)
    assert done.returncode == 1
    assert "stale" in done.stdout
    assert run(document).returncode == 0
    assert document.read_text() == text


def test_help_and_table_have_the_same_words() -> None:
    words = "folder of the LoRA adapters that may be loaded while the pool runs"
    assert words in " ".join(help_text(option_fields()).split())
    assert f"| `--lora-dir` | {words} | anywhere |" in flag_table(["lora_dir"], option_fields())


def test_table_escapes_markup() -> None:
    assert '"&lt;think>"' in flag_table(["reasoning_parser"], option_fields())


@pytest.mark.parametrize("flag", [each for group in FLAGS.values() for each in group])
def test_every_flag_is_an_option_with_a_description(flag: Flag) -> None:
    fields = option_fields()
    assert flag.help or fields[flag.key].description
    assert (flag.key in fields) == (not flag.help)


def test_every_option_has_a_flag_but_the_name_of_a_group() -> None:
    keys = {flag.key for group in FLAGS.values() for flag in group}
    assert option_fields().keys() - keys == {"name"}


def test_each_flag_and_variable_of_the_reference_is_in_a_table() -> None:
    text = (ROOT / "docs" / "options.md").read_text()
    missing = [name for name in (*reference_flags(), *variables()) if f"\n| `{name}`" not in text]
    assert missing == []
