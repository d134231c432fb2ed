"""CONTRIBUTING.md: its recipes name what exists, and its commands can be run."""

import ast
import os
import re
import shlex
from pathlib import Path
from typing import NamedTuple

import pytest

from headrace.launcher.command.flags import FLAGS
from tests.docs.documents import ROOT, code_spans, named_paths

TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
TITLES = (
    "a route",
    "a request field",
    "a tool parser",
    "a reasoning parser",
    "a sampling parameter",
    "an admin call",
    "a runner",
    "a metric",
)
MOST_LINES, LEAST_LINES = 12, 5
# Words of a recipe that no file of the repository defines.
FOREIGN = frozenset({"_total", "multiprocess_mode", "/docs", "<think>", "start", "end", "engine"})


class Recipe(NamedTuple):
    """lines: those that are not blank."""

    title: str
    lines: tuple[str, ...]

    @property
    def paths(self) -> list[str]:
        return [path for line in self.lines for path in named_paths(line)]


def read_recipes() -> list[Recipe]:
    found = []
    for part in re.split(r"^## Add ", TEXT.partition("\n# Recipes\n")[2], flags=re.M)[1:]:
        title, *lines = part.splitlines()
        found.append(Recipe(title, tuple(line for line in lines if line.strip())))
    return found


RECIPES = read_recipes()


def source_of(paths: list[str]) -> str:
    """Return the text of files, and of the modules in folders."""
    files: list[Path] = []
    for path in map(ROOT.joinpath, paths):
        files += path.rglob("*.py") if path.is_dir() else [path]
    return "\n".join(file.read_text(encoding="utf-8") for file in files)


def commands() -> list[list[str]]:
    """Return the words of each command that the document shows, without comments."""
    block = re.search(r"^```sh\n(.*?)^```", TEXT, flags=re.M | re.S)
    assert block is not None
    lines = [shlex.split(line, comments=True) for line in block[1].splitlines()]
    split = [" ".join(words).split(" && ") for words in lines]
    return [shlex.split(each) for line in split for each in line]


def has_flag(path: Path, flag: str) -> bool:
    """Return whether a Python file adds this flag to a parser."""
    strings = {
        node.value
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    return flag in strings


SERVE_FLAGS = {name for flags in FLAGS.values() for flag in flags for name in flag.names}


def test_all_recipes_are_there() -> None:
    assert tuple(recipe.title for recipe in RECIPES) == TITLES


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.title)
def test_a_recipe_is_short_and_ends_with_its_tests(recipe: Recipe) -> None:
    assert LEAST_LINES <= len(recipe.lines) <= MOST_LINES
    steps = [line for line in recipe.lines if re.match(r"\d\. ", line)]
    assert [line[0] for line in steps] == [str(number + 1) for number in range(len(steps))]
    assert re.match(r"\d\. Tests: ", steps[-1])
    last = recipe.lines[recipe.lines.index(steps[-1]) :]
    assert [path for line in last for path in named_paths(line) if path.startswith("tests/")]


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.title)
def test_names_in_a_recipe_are_in_its_files(recipe: Recipe) -> None:
    assert len(recipe.paths) >= 5
    assert [path for path in recipe.paths if not (ROOT / path).exists()] == []
    source = source_of(recipe.paths)
    missing = []
    for span in (span for line in recipe.lines for span in code_spans(line)):
        if span in FOREIGN or named_paths(f"`{span}`") or span.startswith("--"):
            continue
        name = re.escape(span.partition("(")[0])
        if re.search(rf"(?<!\w){name}(?!\w)", source) is None:
            missing.append(span)
    assert missing == []


def test_flags_in_the_text_are_flags_of_the_server() -> None:
    prose = re.sub(r"^```.*?^```", "", TEXT, flags=re.M | re.S)
    flags = {word for span in code_spans(prose) for word in span.split() if word.startswith("--")}
    assert flags
    assert flags - SERVE_FLAGS == set()


def test_commands_can_be_run() -> None:
    seen = set()
    for words in commands():
        while "=" in words[0]:  # a variable, whose value here is a folder
            value = words.pop(0).partition("=")[2]
            assert Path(value.replace("$PWD", str(ROOT))).is_dir()
        program, *arguments = words
        seen.add(program)
        if program.startswith(".venv/bin/"):
            assert program.removeprefix(".venv/bin/") in ("python", "ruff")
        else:
            assert os.access(ROOT / program, os.X_OK), program
        for path in arguments:
            if "/" in path or path.endswith(".py"):
                assert (ROOT / path).exists(), path
    assert {"scripts/launch.sh", "scripts/test.sh", "scripts/check.sh", ".ci/run"} <= seen


def test_flags_of_commands_exist() -> None:
    for program, *arguments in commands():
        flags = {word for word in arguments if word.startswith("--")}
        if program == "scripts/launch.sh":
            assert flags - SERVE_FLAGS == set()
        elif "-m" in arguments:
            module = ROOT.joinpath(*arguments[arguments.index("-m") + 1].split("."))
            file = module / "__main__.py" if module.is_dir() else module.with_suffix(".py")
            assert [flag for flag in flags - {"--help"} if not has_flag(file, flag)] == []
