"""Read which modules of sentence-transformers a folder has, in which order, and where they are.

modules.json lists modules by the names of their classes, which differ between versions: the last
part tells the kind. A Router (Asym in older files) has lists of its own, one for each kind of text,
which stand in its place.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from headrace.protocol.common.pooling.json_files import PoolingFilesError, read_json, read_object

MODULES = "modules.json"
ENCODERS: Final = ("Transformer", "StaticEmbedding")
SUPPORTED: Final = (
    *ENCODERS,
    "Pooling",
    "Dense",
    "LayerNorm",
    "Normalize",
    "Dropout",
    "MultiVectorMask",  # of late interaction; all tokens are used here, as in the reference
    "Router",
)
_ROUTERS = ("Router", "Asym")
# The lists of a Router, and where versions before had them.
_ROUTER_FILES = ("router_config.json", "config.json")
_TEXT = "text"  # the route of texts, where other routes are for images and the like


@dataclass(frozen=True, slots=True)
class ModuleEntry:
    """A module: the last part of its class's name, and its folder."""

    kind: str
    place: Path


@dataclass(frozen=True, slots=True)
class ModuleRoutes:
    """Lists of modules by kinds of texts. default: the kind of texts of no kind.

    Without a Router there is one list, of the kind "".
    """

    lists: Mapping[str, Sequence[ModuleEntry]]
    default: str = ""


def read_routes(folder: Path, supported: Sequence[str] = SUPPORTED) -> ModuleRoutes | None:
    """Return the modules of a folder; None if it lists none.

    Raises PoolingFilesError if a file is damaged, or names a module that is not supported.
    """
    entries = read_json(folder / MODULES)
    if entries is None:
        return None
    if not isinstance(entries, list) or not all(isinstance(each, dict) for each in entries):
        raise PoolingFilesError(f"{folder / MODULES}: is not a list of modules")
    lists: dict[str, list[ModuleEntry]] = {"": []}
    default = ""
    for each in entries:
        entry = _entry(folder, each.get("type"), each.get("path") or "", supported)
        if entry.kind not in _ROUTERS:
            for modules in lists.values():
                modules.append(entry)
            continue
        if default:
            raise PoolingFilesError(f"{folder / MODULES}: has more than one Router")
        routed, default = _router(entry.place, supported)
        lists = {name: [*lists[""], *modules] for name, modules in routed.items()}
    return ModuleRoutes(lists, default)


def encoder_folder(folder: Path) -> Path:
    """Return the folder of the model itself. Raises PoolingFilesError if kinds of texts have models
    of their own."""
    routes = read_routes(folder)
    if routes is None:
        return folder
    places = {
        entry.place for modules in routes.lists.values() for entry in modules
        if entry.kind in ENCODERS
    }  # fmt: skip
    if len(places) > 1:
        names = ", ".join(sorted(place.name for place in places))
        raise PoolingFilesError(f"{folder}: its Router has several models ({names}), not one")
    return next(iter(places), folder)


def _router(place: Path, supported: Sequence[str]) -> tuple[dict[str, list[ModuleEntry]], str]:
    """Return the lists of a Router, and the name of its default."""
    files = (read_object(place / name) for name in _ROUTER_FILES)
    config = next((each for each in files if "structure" in each), {})
    structure, types = config.get("structure"), config.get("types")
    parameters = config.get("parameters")
    if not isinstance(structure, dict) or not structure or not isinstance(types, dict):
        raise PoolingFilesError(f"{place}: a Router without the lists of its modules")
    lists: dict[str, list[ModuleEntry]] = {}
    for route, names in structure.items():
        if not isinstance(names, list) or not all(isinstance(types.get(n), str) for n in names):
            raise PoolingFilesError(f"{place}: the Router's modules of {route[:100]!r} are unknown")
        lists[route] = [_entry(place, types[name], name, supported) for name in names]
    parameters = parameters if isinstance(parameters, dict) else {}
    if parameters.get("route_mappings"):
        raise PoolingFilesError(f"{place}: a Router's route_mappings are not supported")
    default = _TEXT if _TEXT in lists else parameters.get("default_route") or next(iter(lists))
    if default not in lists:
        raise PoolingFilesError(f"{place}: the Router's default_route is none of its routes")
    return lists, default


def _entry(folder: Path, name: Any, path: Any, supported: Sequence[str]) -> ModuleEntry:
    """Return a module of a class's name. Raises PoolingFilesError for other kinds."""
    kind = str(name or "").rpartition(".")[2]
    if kind not in (*supported, *_ROUTERS):
        raise PoolingFilesError(
            f"{folder / MODULES}: the module {kind[:100]!r} is not supported "
            f"(those that are: {', '.join(supported)})"
        )
    if not isinstance(path, str) or Path(path).is_absolute() or ".." in Path(path).parts:
        raise PoolingFilesError(f"{folder / MODULES}: a module's path leaves the folder")
    return ModuleEntry(kind, folder / path)
