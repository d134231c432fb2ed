"""The form of docs/decisions: every entry has a status, is short, and is in the index."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "docs" / "decisions"
INDEX = FOLDER / "README.md"
TOPICS = sorted(set(FOLDER.glob("*.md")) - {INDEX})

MOST_TITLE_WORDS = 8
MOST_LINES = 15
MOST_CHARACTERS = 100

_LINK = r"\[[^\]]+\]\([\w-]+\.md#[\w-]+\)"
_STATUS = re.compile(
    r"(?P<date>\d{4}-\d\d-\d\d) · (?:"
    rf"in force(?P<amended>, amended by {_LINK}(?:, {_LINK})*)?"
    rf"|(?P<replaced>replaced by {_LINK}))"
)
_TARGET = re.compile(r"\]\(([^)\s]+)\)")


@dataclass(frozen=True)
class Entry:
    """A decision: its file's name, its title, and the lines below the title that are not blank."""

    file: str
    title: str
    lines: tuple[str, ...]

    @property
    def name(self) -> str:
        return f"{self.file}: {self.title}"

    @property
    def anchor(self) -> str:
        return f"{self.file}#{slug(self.title)}"

    @property
    def status(self) -> re.Match[str] | None:
        return _STATUS.fullmatch(self.lines[0]) if self.lines else None

    @property
    def index_line(self) -> str:
        status = self.status
        assert status is not None, f"{self.name}: the line below the title is not a status"
        short = "replaced" if status["replaced"] else "in force"
        short += ", amended" if status["amended"] else ""
        return f"- {status['date']} · [{self.title}]({self.anchor}) · {short}"


def slug(title: str) -> str:
    """Give the anchor that GitHub makes of a heading."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def read_entries() -> Iterator[Entry]:
    for file in TOPICS:
        for part in re.split(r"^### ", file.read_text(encoding="utf-8"), flags=re.M)[1:]:
            title, *lines = part.splitlines()
            yield Entry(file.name, title, tuple(line for line in lines if line.strip()))


ENTRIES = list(read_entries())


def test_there_are_entries_in_each_file() -> None:
    assert TOPICS
    assert {entry.file for entry in ENTRIES} == {file.name for file in TOPICS}


def test_titles_are_short_and_name_one_entry_each() -> None:
    titles = [entry.title for entry in ENTRIES]

    assert [title for title in titles if len(title.split()) > MOST_TITLE_WORDS] == []
    assert sorted(titles) == sorted(set(titles))


def test_each_entry_has_a_status() -> None:
    assert [entry.name for entry in ENTRIES if entry.status is None] == []


def test_entries_are_short() -> None:
    empty = [entry.name for entry in ENTRIES if len(entry.lines) < 2]
    long = [entry.name for entry in ENTRIES if len(entry.lines) - 1 > MOST_LINES]
    wide = [
        f"{entry.name}: {line}"
        for entry in ENTRIES
        for line in entry.lines[1:]
        if len(line) > MOST_CHARACTERS
    ]

    assert (empty, long, wide) == ([], [], [])


def test_the_index_has_a_line_for_each_entry() -> None:
    listed = [
        line for line in INDEX.read_text(encoding="utf-8").splitlines() if line.startswith("- ")
    ]

    assert sorted(listed) == sorted(entry.index_line for entry in ENTRIES)


def test_links_resolve() -> None:
    anchors = {entry.anchor for entry in ENTRIES}
    broken = []
    for file in [INDEX, *TOPICS]:
        for target in _TARGET.findall(file.read_text(encoding="utf-8")):
            path, _, anchor = target.partition("#")
            is_known = target in anchors if anchor else (FOLDER / path).is_file()
            if not is_known:
                broken.append(f"{file.name}: {target}")

    assert broken == []
