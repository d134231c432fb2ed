"""Bring a model of sentence-transformers into the layout of all others.

The model itself may lie in a folder of its own, beside those of the modules that follow it, and
modules may have pickled weights. The folder made here has links to what is where it should be.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from headrace.launcher.models.foreign_code import (
    RunPrepare,
    only_pickles,
    pickled_files,
)
from headrace.launcher.models.model_cache import (
    MANIFEST,
    Progress,
    cached,
    file_digest,
    joint_digest,
)
from headrace.launcher.models.model_folder import WEIGHTS, ModelError
from headrace.protocol.common.pooling.json_files import PoolingFilesError, read_object
from headrace.protocol.common.pooling.module_list import MODULES, encoder_folder, read_routes
from headrace.protocol.common.pooling.sentence_modules import SETTINGS, is_cross_encoder
from headrace.protocol.common.pooling.static_embedding import (
    is_static,
    static_config,
    static_modules,
)

_CONFIG, _ROUTER = "config.json", "router_config.json"
# Files that say how modules work together: those of the model's own folder say nothing of it.
_WHOLE = frozenset({MODULES, SETTINGS, _ROUTER, MANIFEST})
_LAYERS = ("Dense", "LayerNorm")
_FORMAT = "1"


def with_one_layout(
    folder: Path, allows_pickles: bool, cache: Path, progress: Progress, run_prepare: RunPrepare
) -> Path:
    """Return the folder, or one like it in the cache with the model's files in the folder itself
    and modules' weights as safetensors.

    run_prepare: converts a folder's pickles in a process of its own.
    Raises ModelError if a file is damaged, or there are pickles that must not be read.
    """
    try:
        model = folder if is_cross_encoder(folder) else encoder_folder(folder)
        pickled = list(_pickled_layers(folder))
        static = _static_files(folder, model)
    except PoolingFilesError as error:
        raise ModelError(str(error)) from error
    if model == folder and not pickled and not static:
        return folder
    if pickled and not allows_pickles:
        raise ModelError(f"{pickled[0]}: {only_pickles(pickled_files(pickled[0])[0])}")
    digests = [file_digest(place / name) for place in pickled for name in pickled_files(place)]
    names = sorted(file.name for place in (folder, model) for file in place.iterdir())
    key = joint_digest([_FORMAT, str(folder.absolute()), *names, *digests, json.dumps(static)])

    def build(entry: Path) -> None:
        _link(folder, model, entry)
        for name, value in static.items():
            (entry / name).unlink(missing_ok=True)
            (entry / name).write_text(json.dumps(value), encoding="utf-8")
        for place in pickled:
            progress(f"converting the pickled weights of {place.name} to safetensors, once")
            converted = _own_folder(entry, place.relative_to(folder))
            run_prepare("pickle", place, converted)

    return cached(cache / "models" / f"{folder.name}-{key}", build, progress)


def _static_files(folder: Path, model: Path) -> dict[str, Any]:
    """Return the files that a model without layers lacks: it needs no transformers, and has none of
    its files."""
    if is_cross_encoder(folder) or not is_static(folder):
        return {}
    files: dict[str, Any] = {_CONFIG: static_config(model)}
    if not (folder / MODULES).is_file():
        files[MODULES] = static_modules(folder)
    return files


def _pickled_layers(folder: Path) -> Iterator[Path]:
    """Yield the folders of layers that have pickled weights only."""
    routes = None if is_cross_encoder(folder) else read_routes(folder)
    entries = [] if routes is None else [each for found in routes.lists.values() for each in found]
    for place in dict.fromkeys(each.place for each in entries if each.kind in _LAYERS):
        if not (place / WEIGHTS).is_file() and pickled_files(place):
            yield place


def _link(folder: Path, model: Path, entry: Path) -> None:
    """Link what is in a folder, and what is in the model's folder in place of files of one name."""
    files = {file.name: file for file in folder.iterdir() if file.name != MANIFEST}
    if model != folder:
        if "structure" in read_object(folder / _CONFIG):  # a Router of older versions
            files[_ROUTER] = files.pop(_CONFIG)
        files |= {file.name: file for file in model.iterdir() if file.name not in _WHOLE}
    for name, file in files.items():
        (entry / name).symlink_to(file.absolute())


def _own_folder(entry: Path, place: Path) -> Path:
    """Return a folder in an entry that links to what its original has; links before it become
    folders, too."""
    for depth in range(1, len(place.parts) + 1):
        path = entry.joinpath(*place.parts[:depth])
        if path.is_symlink():
            original = path.readlink()
            path.unlink()
            path.mkdir()
            for file in original.iterdir():
                (path / file.name).symlink_to(file)
    return entry / place
