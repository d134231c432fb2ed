"""Read the files in which sentence-transformers keeps what follows a model's forward pass.

modules.json lists modules by the names of their classes, which differ between versions: the last
part tells the kind. Each has a folder of its own, with config.json and perhaps weights.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

MODULES = "modules.json"
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
SUPPORTED: Final = (
    "Transformer",
    "Pooling",
    "Dense",
    "Normalize",
    "Dropout",
    "MultiVectorMask",  # of late interaction; all tokens are used here, as in the reference
)


class PoolingFilesError(ValueError):
    """The files of a model that pools cannot be used; the text is one line for the operator."""


@dataclass(frozen=True, slots=True)
class DenseModule:
    """A linear layer after pooling. activation: the name of torch's class, such as "Tanh"."""

    folder: Path
    inputs: int
    outputs: int
    has_bias: bool
    activation: str


@dataclass(frozen=True, slots=True)
class SentenceModules:
    """What a model's folder says about its embeddings.

    modes: of pooling; several are joined; none: there is a vector for each token alone.
    denses: after it, in order.
    normalizes: whether the authors normalize embeddings.
    includes_prompt: whether pooling reads the tokens of a prompt.
    max_tokens: of a text; None: as long as the model takes.
    prompts: texts that go before others, by name. default_prompt: the name of the one that goes
        before texts of no kind; None: none.
    similarity: how embeddings are compared.
    """

    modes: tuple[str, ...] = ("mean",)
    denses: tuple[DenseModule, ...] = ()
    normalizes: bool = False
    includes_prompt: bool = True
    max_tokens: int | None = None
    lowercases: bool = False
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt: str | None = None
    similarity: str = "cosine"


def read_sentence_modules(folder: Path) -> SentenceModules | None:
    """Return what a folder says about embeddings; None if it has no such files.

    Raises PoolingFilesError if a file is damaged, or names a module that is not supported.
    """
    entries = read_json(folder / MODULES)
    settings = read_settings(folder)
    if entries is None or settings.get("model_type") == _CROSS_ENCODER:
        return None
    if not isinstance(entries, list) or not all(isinstance(each, dict) for each in entries):
        raise PoolingFilesError(f"{folder / MODULES}: is not a list of modules")
    kinds = [_kind(folder, entry) for entry in entries]
    modes: tuple[str, ...] = ()
    includes_prompt = True
    denses = []
    for kind, place in kinds:
        if kind == "Pooling":
            modes, includes_prompt = _pooling(read_object(place / "config.json"), place)
        elif kind == "Dense":
            denses.append(_dense(place))
    prompts, default = _prompts(settings, folder)
    lengths = read_lengths(folder)
    max_tokens = lengths.get("max_seq_length")
    return SentenceModules(
        modes=modes,
        denses=tuple(denses),
        # Late interaction is of normalized vectors: older files leave that to the program.
        normalizes=not modes or any(kind == "Normalize" for kind, _ in kinds),
        includes_prompt=includes_prompt,
        max_tokens=max_tokens if is_count(max_tokens) else None,
        lowercases=bool(lengths.get("do_lower_case")),
        prompts=prompts,
        default_prompt=default,
        similarity=str(settings.get("similarity_fn_name") or "cosine"),
    )


def read_module_folders(folder: Path) -> list[tuple[str, Path]]:
    """Return the kinds and the folders of a cross-encoder's modules; [] if it has none."""
    entries = read_json(folder / MODULES)
    if not isinstance(entries, list) or not is_cross_encoder(folder):
        return []
    kinds = (*SUPPORTED, "LogitScore")
    return [_kind(folder, entry, kinds) for entry in entries if isinstance(entry, dict)]


def is_cross_encoder(folder: Path) -> bool:
    """Return whether a folder says that it holds a cross-encoder."""
    return read_settings(folder).get("model_type") == _CROSS_ENCODER


def read_settings(folder: Path) -> dict[str, Any]:
    """Return the settings of a folder that sentence-transformers has written; {} without them."""
    return read_object(folder / SETTINGS)


def read_object(file: Path) -> dict[str, Any]:
    """Return the JSON object in a file; {} if there is no file."""
    value = read_json(file)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise PoolingFilesError(f"{file}: is not a JSON object")
    return value


def read_json(file: Path) -> Any:
    """Return what a file holds; None if there is no file. Raises PoolingFilesError."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise PoolingFilesError(f"{file}: cannot be read as JSON") from error


def is_count(value: object) -> bool:
    """Return whether a value is a whole number above 0."""
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _kind(
    folder: Path, entry: Mapping[str, Any], supported: Sequence[str] = SUPPORTED
) -> tuple[str, Path]:
    """Return the kind of a module and its folder. Raises PoolingFilesError for other kinds."""
    kind = str(entry.get("type", "")).rpartition(".")[2]
    if kind not in supported:
        raise PoolingFilesError(
            f"{folder / MODULES}: the module {kind[:100]!r} is not supported "
            f"(those that are: {', '.join(supported)})"
        )
    name = entry.get("path") or ""
    if not isinstance(name, str) or Path(name).is_absolute() or ".." in Path(name).parts:
        raise PoolingFilesError(f"{folder / MODULES}: a module's path leaves the folder")
    if kind == "Transformer" and name not in ("", "."):
        raise PoolingFilesError(
            f"{folder / MODULES}: the model lies in {name}: move its files to the folder itself"
        )
    return kind, folder / name


def _pooling(config: Mapping[str, Any], place: Path) -> tuple[tuple[str, ...], bool]:
    """Return the modes of a pooling module, and whether it reads the tokens of prompts."""
    given = config.get("pooling_mode")
    names = given if isinstance(given, list | tuple) else [given]
    if given is None:
        names = [mode for flag, mode in _FLAGS.items() if config.get(flag)] or ["mean"]
    unknown = [str(name)[:100] for name in names if name not in MODES]
    if unknown:
        raise PoolingFilesError(f"{place}: the pooling mode {unknown[0]!r} is unknown")
    ordered = tuple(mode for mode in MODES if mode in names)
    return ordered, bool(config.get("include_prompt", True))


def _dense(place: Path) -> DenseModule:
    config = read_object(place / "config.json")
    inputs, outputs = config.get("in_features"), config.get("out_features")
    if not is_count(inputs) or not is_count(outputs):
        raise PoolingFilesError(f"{place}: a Dense module without in_features and out_features")
    activation = str(config.get("activation_function", "torch.nn.modules.activation.Tanh"))
    return DenseModule(
        place,
        int(inputs or 0),
        int(outputs or 0),
        bool(config.get("bias", True)),
        activation.rpartition(".")[2],
    )


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
