"""Tell the module names of a checkout, so that one checkout's benchmarks can run another's code.

Up to commit 0b3dd69 the packages were imported without the root `headrace`, and the launcher and
its command were part of `coordinator`.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True)
class Layout:
    """The modules that a pool's processes run. command: of `headrace serve`."""

    command: str
    frontend: str
    worker: str
    fork_server: str


CURRENT = Layout(
    command="headrace.launcher.command.cli",
    frontend="headrace.frontend.main",
    worker="headrace.workers.main",
    fork_server="headrace.workers.fork_server",
)
WITHOUT_ROOT = Layout(
    command="coordinator.cli",
    frontend="frontend.main",
    worker="workers.main",
    fork_server="workers.template",
)


def layout_of(checkout: Path) -> Layout:
    """Return the layout of a checkout. Raises ValueError if the folder is not a checkout."""
    if (checkout / "headrace" / "__init__.py").exists():
        return CURRENT
    if (checkout / "coordinator" / "cli.py").exists():
        return WITHOUT_ROOT
    raise ValueError(f"{checkout}: not a checkout of Headrace")


def environment(checkout: Path) -> Mapping[str, str]:
    """Return the environment of a process that must run a checkout's code: its path is first."""
    return {**os.environ, "PYTHONPATH": str(checkout.resolve())}
