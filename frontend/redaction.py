"""Take out of an error's text what clients must not see: places on this machine, addresses in
memory, and what Python says of its own objects.

Errors are written without such things. This is the second line: texts of libraries, of other
processes and of the system pass through here, too.
"""

import contextlib
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from tempfile import gettempdir

from headrace.protocol.config import PoolConfig

HIDDEN = "…"
MAX_CHARS = 2000
_ADDRESS = re.compile(r"\b0[xX][0-9a-fA-F]{4,}\b")
_TRACEBACK = re.compile(r"\s?Traceback \(most recent call last\).*", re.DOTALL)
_PYTHON = re.compile(
    r"File \"[^\"]*\"(?:, line \d+)?"  # a line of a traceback
    r"|<(?:class|function|bound method|module|built-in)\b[^>]*>|<[\w.]+ object\b[^>]*>"
    r"|\bheadrace(?:\.\w+)+|(?<![\w./-])[\w./-]*(?:/site-packages/\S*|\.(?:py|rs|cpp)\b(?::\d+)*)"
)
# Of texts that hold nothing a client has written.
_ANY_PATH = re.compile(r"(?<![\w/:.])(?:~|/(?!v1/)[\w.+@-]+)(?:/[\w.+@%=-]+)+/?")
_URL = re.compile(r"\b(?:\w+\+)?\w+:///?[^\s'\"]+")


class _Places:
    """Paths of this machine, and a pattern that finds them and what is below them."""

    def __init__(self) -> None:
        self._paths: set[str] = set()
        self.pattern = re.compile(r"(?!)")
        package = Path(__file__).resolve().parents[1]
        self.add((package, Path(sys.prefix)))
        for find in (Path.home, Path.cwd, lambda: Path(gettempdir())):
            with contextlib.suppress(OSError, RuntimeError):  # a container may have none of them
                self.add((find(),))

    def add(self, paths: Iterable[Path]) -> None:
        """Hide more paths. Roots such as "/" are left out: they hide nothing."""
        shown = {str(path.absolute()) for path in paths}
        new = {path for path in shown if path.strip("/") and not self._is_hidden(path)}
        if not new:
            return
        self._paths |= new
        longest_first = sorted(self._paths, key=len, reverse=True)
        names = "|".join(map(re.escape, longest_first))
        self.pattern = re.compile(rf"(?<![\w.-])(?:{names})(?![\w.-])[^\s'\"`,;)\]]*")

    def _is_hidden(self, path: str) -> bool:
        return any(path == hidden or path.startswith(f"{hidden}/") for hidden in self._paths)


_PLACES = _Places()


def hide_places(paths: Iterable[Path]) -> None:
    """Hide paths, and all that is below them, from the texts of errors."""
    _PLACES.add(paths)


def hide_places_of(config: PoolConfig) -> None:
    """Hide the paths that a pool uses from the texts of errors."""
    paths = [config.run_dir, config.files]
    for group in config.groups:
        paths += [group.model_path, group.text_path]
    paths += filter(None, (config.lora_dir, config.profile_dir, config.uds))
    if config.response_store.startswith("sqlite"):
        paths.append(Path(config.response_store.partition(":///")[2]))
    hide_places(paths)


def without_internals(text: str, *, is_ours: bool = False) -> str:
    """Return an error's text as clients may see it.

    is_ours: whether no client has written any of it, so that whatever looks like a path goes.
    """
    if len(text) > MAX_CHARS:
        text = text[:MAX_CHARS] + HIDDEN
    text = _TRACEBACK.sub("", text)
    text = _PLACES.pattern.sub(HIDDEN, text)
    if is_ours:
        text = _ANY_PATH.sub(HIDDEN, _URL.sub(HIDDEN, text))
    return _ADDRESS.sub(HIDDEN, _PYTHON.sub(HIDDEN, text))
