"""The documents for people who use or change the code, and the paths that they name."""

import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCUMENTS = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md")))

_TOP_FOLDERS = frozenset(each.name for each in ROOT.iterdir() if each.is_dir())
_UNIT = re.compile(r"[\w-]+(@\w*)?\.(service|socket|target)")
_FILE = re.compile(r"[\w@.-]+(/[\w@.-]+)*\.(py|sh|md|h|cpp)")
_FOLDER = re.compile(r"[\w.-]+(/[\w.-]+)*/")
_PLACEHOLDER = re.compile(r"[A-Z]+\.py")


def code_spans(line: str) -> list[str]:
    """Return what stands between backticks in a line."""
    return re.findall(r"`([^`]+)`", line)


def outside_fences(text: str) -> Iterator[tuple[int, str]]:
    """Yield the lines that are not in a fenced block, with their numbers."""
    in_fence = False
    for number, line in enumerate(text.splitlines(), start=1):
        if line.startswith("```"):
            in_fence = not in_fence
        elif not in_fence:
            yield number, line


def named_paths(line: str) -> list[str]:
    """Return the paths of the repository that a line names in backticks.

    In the row of a table, paths may be relative to the folder in its first cell.
    """
    # A test is `file::name`.
    spans = [span.partition("::")[0] for span in code_spans(line)]
    words = [word.rstrip(",;:") for span in spans for word in span.split()]
    paths = [path for word in words if (path := _as_path(word)) is not None]
    if line.startswith("| `") and paths and paths[0].endswith("/"):
        folder = paths[0]
        paths = [each if (ROOT / each).exists() else folder + each for each in paths]
    return paths


def _as_path(word: str) -> str | None:
    """Return the path that a word stands for; None if it does not look like one of ours."""
    if _UNIT.fullmatch(word):
        return "systemd/" + re.sub(r"@\w*", "@", word)
    if _PLACEHOLDER.fullmatch(word):
        return None
    if _FILE.fullmatch(word) or _FOLDER.fullmatch(word):
        return word
    first, slash, _ = word.partition("/")
    is_pattern = "*" in word or "…" in word
    return word if slash and first in _TOP_FOLDERS and not is_pattern else None
