"""The documents name files, modules and links that exist."""

import importlib.util
import re
from pathlib import Path

import pytest

from tests.docs.documents import DOCUMENTS, ROOT, named_paths, outside_fences

_MODULE = re.compile(r"\bheadrace(?:\.[a-z_]+)+\b(?!/)|(?<=python -m )[a-z_.]+")
_LINK = re.compile(r"\]\((?!https?:)([^)\s#]+)")
# Parts of the names of files that end in something else than a module.
_SUFFIXES = ("service", "socket", "target", "env", "conf", "sysusers", "toml")


def is_module(name: str) -> bool:
    """Return whether a module of the product, of the tests or of a benchmark exists."""
    first, *others = name.split(".")
    if first not in ("headrace", "bench", "tests"):
        return importlib.util.find_spec(first) is not None
    path = ROOT.joinpath(first, *others)
    return path.with_suffix(".py").is_file() or path.is_dir()


@pytest.mark.parametrize(
    ("line", "paths"),
    [
        ("see `frontend/app.py` and `workers/native/`, not `/v1/models` or `org/name`",
         ["frontend/app.py", "workers/native/"]),
        ("| `launcher/` | `command/` flags; `launcher.py` |",
         ["launcher/", "launcher/command/", "launcher/launcher.py"]),
        ("`.ci/run`, `scripts/pool.sh status`, `app.py`; main.py",
         [".ci/run", "scripts/pool.sh", "app.py"]),
        ("`headrace-worker@3.service` runs `--tool-parser-plugin FILE.py`",
         ["systemd/headrace-worker@.service"]),
    ],
)  # fmt: skip
def test_paths_are_told_from_other_words(line: str, paths: list[str]) -> None:
    assert named_paths(line) == paths


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_paths_exist(document: Path) -> None:
    missing = [
        f"line {number}: {path}"
        for number, line in outside_fences(document.read_text(encoding="utf-8"))
        for path in named_paths(line)
        if not (ROOT / path).exists()
    ]
    assert missing == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_modules_exist(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    names = {name for name in _MODULE.findall(text) if not name.endswith(_SUFFIXES)}
    assert [name for name in sorted(names) if not is_module(name)] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_to_files(document: Path) -> None:
    targets = _LINK.findall(document.read_text(encoding="utf-8"))
    assert [each for each in targets if not (document.parent / each).exists()] == []


def test_many_paths_were_found() -> None:
    lines = [line for each in DOCUMENTS for line in each.read_text(encoding="utf-8").splitlines()]
    assert len({path for line in lines for path in named_paths(line)}) > 150
