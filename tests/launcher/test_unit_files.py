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


def test_no_unit_starts_again_what_would_fail_alike() -> None:
    services = [file for file in UNITS.glob("*.service") if "Restart=" in file.read_text()]
    assert len(services) >= 4
    for file in services:
        assert "\nRestartPreventExitStatus=2 78\n" in file.read_text(), file.name


def test_keys_reach_only_what_hashes_them() -> None:
    names = "HEADRACE_API_KEY HEADRACE_ADMIN_KEY VLLM_API_KEY HEADRACE_FLAGS"
    for file in UNITS.glob("*.service"):
        text = file.read_text()
        reads_flags = "$HEADRACE_FLAGS" in text
        assert "EnvironmentFile=" in text
        assert (f"\nUnsetEnvironment={names}\n" in text) is not reads_flags, file.name
