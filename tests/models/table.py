"""Write the table of architectures in docs/models.md from a sweep's outcomes."""

import re
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from tests.models.outcome import Outcome

DOCUMENT = Path(__file__).parents[2] / "docs" / "models.md"
_TABLE = re.compile(r"(<!-- architectures -->\n).*?(<!-- end of architectures -->)", re.DOTALL)
_HEAD = "| | architectures |\n|---|---|\n"


def with_table(text: str, outcomes: Iterable[Outcome]) -> str:
    """Return the document with its table made anew. Raises ValueError if it has none."""
    text, count = _TABLE.subn(lambda found: f"{found[1]}{_table(outcomes)}{found[2]}", text)
    if count != 1:
        raise ValueError("no <!-- architectures --> in it")
    return text


def names_in_table(text: str) -> list[str]:
    """Return the architectures that the document's table names, in its order."""
    found = _TABLE.search(text)
    if found is None:
        raise ValueError("no <!-- architectures --> in it")
    rows = found[0].split("|---|---|\n")[1].splitlines()
    cells = [row.split("|")[-2] for row in rows if row.startswith("|")]
    return [name.strip() for cell in cells for name in cell.split(",")]


def _table(outcomes: Iterable[Outcome]) -> str:
    rows: dict[tuple[int, str], list[str]] = defaultdict(list)
    for outcome in outcomes:
        rows[_row(outcome)].append(outcome.name)
    lines = [
        f"| {title} ({len(names)}) | {', '.join(sorted(names))} |"
        for (_, title), names in sorted(rows.items())
    ]
    return _HEAD + "\n".join(lines) + "\n"


def _row(outcome: Outcome) -> tuple[int, str]:
    """Return where the outcome's row stands in the table, and its title."""
    how = "compiled programs" if outcome.is_compiled else "torch's operations"
    if outcome.kind == "served":
        return (0 if outcome.is_compiled else 1), f"**served**, {how}"
    if outcome.kind == "text only":
        return (2 if outcome.is_compiled else 3), f"**text only**, {how}"
    place = {"refused": 4, "no tiny model": 5}.get(outcome.kind, 6)
    return place, f"{outcome.kind}: {_general(outcome)}"


# What differs from one architecture to the next in a reason, and what stands for it.
_PARTICULARS = (
    (r"^Strict\w+: .*?ValueError: ", ""),
    (r"^\w+Error: +", ""),
    (r" but it was not found.*", ""),
    (r"\. In this case.*", ""),
    (r": \d+% distinct tokens", ""),
    (r"\b\w+(For[A-Z]\w+|LMHeadModel)\b", "it"),
    (r"\blayer \d+\b", "a layer"),
    (r"logits differ by [\d.e+-]+ of", "logits differ by much of"),
    (r" \(\w[\w.]*\) has no head", " has no head"),
    (r"lacks \d+ weights", "lacks weights"),
    (r", among them .*", ""),
    (r" of \[[\d, ]+\]", ""),
    (r" \([\w.]+:\d+\)$", ""),
)


def _general(outcome: Outcome) -> str:
    """Return the reason without what differs from one architecture to the next."""
    reason = outcome.reason.replace(outcome.class_name, "it")
    for pattern, general in _PARTICULARS:
        reason = re.sub(pattern, general, reason)
    return reason.replace("|", "/").replace("`", "'").replace("<", "&lt;")
