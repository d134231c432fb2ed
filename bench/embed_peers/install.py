"""Make the peers' environments, and the files of a model that some of them read."""

import subprocess
import sys
import venv
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from bench.embed_peers.catalogue import ENVIRONMENTS, REMOVED

INSIDE = Path(__file__).parent / "inside"
PREPARED = ("onnx", "openvino")


class PeerError(Exception):
    """A peer that cannot be used; the text is one line."""


def install(
    folder: Path,
    names: Iterable[str],
    environments: Mapping[str, Sequence[str]] = ENVIRONMENTS,
) -> int:
    """Install environments into a folder; return how many failed, each with its error printed."""
    failed = 0
    for name in names:
        target = folder / name
        print(f"{name}: installing into {target}", flush=True)
        try:
            if not (target / "bin/python").exists():
                venv.create(target, with_pip=True)
            pip = [str(target / "bin/python"), "-m", "pip"]
            run([*pip, "install", "-q", *environments[name]])
            if name in REMOVED:
                run([*pip, "uninstall", "-q", "-y", *REMOVED[name]])
        except (PeerError, OSError, subprocess.CalledProcessError) as error:
            failed += 1
            print(f"{name}: {error}", file=sys.stderr)
    return failed


def python_of(folder: Path, environment: str, command: str = "bench.embed") -> Path:
    """Return the Python of an environment. Raises PeerError if it is not installed."""
    path = folder / environment / "bin/python"
    if not path.exists():
        raise PeerError(f"not installed: python -m {command} --install {folder}")
    return path


def prepared_folder(folder: Path, model: Path, kind: str) -> Path:
    """Return the folder of a model's exported files: another one for other weights."""
    weights = sorted(model.glob("*.safetensors"))
    identity = [str(model.resolve()), *(str(each.stat().st_mtime_ns) for each in weights)]
    return folder / "models" / f"{model.name}-{kind}-{zlib.crc32(' '.join(identity).encode()):08x}"


def prepare(folder: Path, model: Path, kind: str) -> None:
    """Export a model with the peer's own exporter, unless that is done. Raises PeerError."""
    target = prepared_folder(folder, model, kind)
    if (target / "done").exists():
        return
    python = python_of(folder, kind)
    print(f"exporting for {kind} into {target}", flush=True)
    run([str(python), str(INSIDE / "prepare.py"), kind, str(model), str(target)])
    (target / "done").touch()


def run(command: list[str]) -> None:
    """Run a command. Raises PeerError with the last line that it wrote, if it fails."""
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise PeerError(last_line(done.stderr or done.stdout) or f"status {done.returncode}")


def last_line(text: str) -> str:
    """Return the last line that says something, which in Python's errors is the error."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if "error" in line.lower()]
    return (errors or lines or [""])[-1][:300]
