"""The units of systemd/ name each other, and files and modules of the product, as they are."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
UNITS = ROOT / "systemd"
_UNIT = re.compile(r"\bheadrace[\w.-]*(?:@[\w%*]*)?\.(?:service|socket|target)\b")


def named_units(text: str) -> set[str]:
    """Return the units in a text by their files: headrace-worker@.service for all numbers."""
    return {re.sub(r"@[^.]*", "@", name) for name in _UNIT.findall(text)}


@pytest.mark.parametrize(
    "file", [*sorted(UNITS.iterdir()), ROOT / "docs" / "systemd.md"], ids=lambda file: file.name
)
def test_units_that_are_named_exist(file: Path) -> None:
    missing = {name for name in named_units(file.read_text()) if not (UNITS / name).exists()}
    assert not missing


def test_names_are_found() -> None:
    assert named_units("Wants=headrace-a.service headrace-b@%i.socket\n`headrace.target`") == {
        "headrace-a.service",
        "headrace-b@.socket",
        "headrace.target",
    }
    assert named_units((UNITS / "headrace-worker@.service").read_text()) >= {
        "headrace-coordinator.service",
        "headrace-workers.target",
    }
