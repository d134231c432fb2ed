"""Read the files in which sentence-transformers keeps what follows a model's forward pass.

modules.json lists modules; each has a folder of its own, with config.json and perhaps weights.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from headrace.protocol.common.pooling.json_files import (
    PoolingFilesError,
    is_count,
    read_object,
)
from headrace.protocol.common.pooling.module_layers import (
    ModuleLayer,
    NormalizeModule,
    read_layer,
)
from headrace.protocol.common.pooling.module_list import (
    SUPPORTED,
    ModuleEntry,
    read_routes,
)

SETTINGS = "config_sentence_transformers.json"
_LENGTHS = ("sentence_bert_config.json", "sentence_xlm-roberta_config.json")
_CROSS_ENCODER = "CrossEncoder"

# How vectors of tokens become one, in the order in which several are joined.
MODES: Final = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")
# The names of the same in files before one word told the mode.
_FLAGS: Final = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}


@dataclass(frozen=True, slots=True)
class SentenceModules:
    """What a model's folder says about its embeddings.

    modes: of pooling; several are joined; none: there is a vector for each token alone.
    layers: after it, in order. normalizes: whether the authors normalize embeddings in the end.
    includes_prompt: whether pooling reads the tokens of a prompt.
    max_tokens: of a text; None: as long as the model takes.
    prompts: texts that go before others, by name. default_prompt: the name of the one that goes
        before texts of no kind; None: none.
    similarity: how embeddings are compared.
    routes: other modes, layers and norms for kinds of texts, by name. default_route: the name of
        those above; "": texts have no kinds.
    """

    modes: tuple[str, ...] = ("mean",)
    layers: tuple[ModuleLayer, ...] = ()
    normalizes: bool = False
    includes_prompt: bool = True
    max_tokens: int | None = None
    lowercases: bool = False
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt: str | None = None
    similarity: str = "cosine"
    routes: "Mapping[str, SentenceModules]" = field(default_factory=dict)
    default_route: str = ""


def read_sentence_modules(folder: Path) -> SentenceModules | None:
    """Return what a folder says about embeddings; None if it has no such files.

    Raises PoolingFilesError if a file is damaged, or names a module that is not supported.
    """
    if is_cross_encoder(folder):
        return None
    found = read_routes(folder)
    if found is None:
        return None
    routes = {name: _route(modules) for name, modules in found.lists.items()}
    chosen = routes[found.default]
    prompts, default = _prompts(read_settings(folder), folder)
    lengths = read_lengths(folder)
    max_tokens = lengths.get("max_seq_length")
    return replace(
        chosen,
        max_tokens=max_tokens if is_count(max_tokens) else None,
        lowercases=bool(lengths.get("do_lower_case")),
        prompts=prompts,
        default_prompt=default,
        similarity=str(read_settings(folder).get("similarity_fn_name") or "cosine"),
        routes=routes if found.default else {},
        default_route=found.default,
    )


def _route(modules: Sequence[ModuleEntry]) -> SentenceModules:
    """Return what becomes of the vectors of tokens in a list of modules."""
    modes: tuple[str, ...] = ()
    includes_prompt = True
    layers: list[ModuleLayer] = []
    for entry in modules:
        if entry.kind == "Pooling":
            modes, includes_prompt = _pooling(entry.place)
        elif entry.kind == "StaticEmbedding":
            modes = ("mean",)
        elif (layer := read_layer(entry.kind, entry.place)) is not None:
            layers.append(layer)
    normalizes = bool(layers) and isinstance(layers[-1], NormalizeModule)
    if normalizes:
        layers.pop()
    return SentenceModules(
        modes=modes,
        layers=tuple(layers),
        # Late interaction is of normalized vectors: older files leave that to the program.
        normalizes=not modes or normalizes,
        includes_prompt=includes_prompt,
    )


def read_module_folders(folder: Path) -> list[tuple[str, Path]]:
    """Return the kinds and the folders of a cross-encoder's modules; [] if it has none."""
    if not is_cross_encoder(folder):
        return []
    found = read_routes(folder, (*SUPPORTED, "LogitScore"))
    modules = [] if found is None else found.lists[found.default]
    return [(entry.kind, entry.place) for entry in modules]


def is_cross_encoder(folder: Path) -> bool:
    """Return whether a folder says that it holds a cross-encoder."""
    return read_settings(folder).get("model_type") == _CROSS_ENCODER


def read_settings(folder: Path) -> dict[str, Any]:
    """Return the settings of a folder that sentence-transformers has written; {} without them."""
    return read_object(folder / SETTINGS)


def _pooling(place: Path) -> tuple[tuple[str, ...], bool]:
    """Return the modes of a pooling module, and whether it reads the tokens of prompts."""
    config = read_object(place / "config.json")
    if not config and not (place / "config.json").is_file():
        raise PoolingFilesError(f"{place}: has no config.json, which tells the pooling mode")
    given = config.get("pooling_mode")
    names = given if isinstance(given, list | tuple) else [given]
    if given is None:
        names = [mode for flag, mode in _FLAGS.items() if config.get(flag)] or ["mean"]
    unknown = [str(name)[:100] for name in names if name not in MODES]
    if unknown:
        raise PoolingFilesError(f"{place}: the pooling mode {unknown[0]!r} is unknown")
    ordered = tuple(mode for mode in MODES if mode in names)
    return ordered, bool(config.get("include_prompt", True))


def _prompts(settings: Mapping[str, Any], folder: Path) -> tuple[dict[str, str], str | None]:
    prompts, default = settings.get("prompts") or {}, settings.get("default_prompt_name")
    if not isinstance(prompts, dict) or not all(
        isinstance(prompt, str) for prompt in prompts.values()
    ):
        raise PoolingFilesError(f"{folder / SETTINGS}: prompts are not texts by name")
    if default is not None and default not in prompts:
        raise PoolingFilesError(f"{folder / SETTINGS}: default_prompt_name is none of the prompts")
    return {str(name): prompt for name, prompt in prompts.items()}, default


def read_lengths(folder: Path) -> dict[str, Any]:
    """Return what sentence-transformers keeps of how texts are read; {} without such a file."""
    found = next((name for name in _LENGTHS if (folder / name).is_file()), None)
    return {} if found is None else read_object(folder / found)
