"""Refuse models that could run code of their authors, and convert pickled weights if that is said.

A model's folder may name Python classes of its own ("auto_map"), which transformers would import,
and its weights may be pickles, which can run anything when they are loaded. Neither happens unless
the operator says so.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

from headrace.launcher.models.model_cache import (
    MANIFEST,
    Progress,
    cached,
    file_digest,
    joint_digest,
)
from headrace.launcher.models.model_folder import INDEX, WEIGHTS, ModelError, read_json_object

TRUST_FLAG = "--trust-remote-code"
PICKLE_FLAG = "--allow-pickle-weights"
PICKLE_INDEX = "pytorch_model.bin.index.json"
_ADAPTER_CONFIG = "adapter_config.json"
_CTRANSLATE2 = "model.bin"  # transformers' own name is another
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
# Files that transformers reads for a model that generates text, and that may name classes.
_CONFIGS = ("config.json", "tokenizer_config.json")
_MAX_DEPTH = 20
# Of the cache's entries: another number has them made anew.
_FORMAT = "2"

RunPrepare = Callable[[str, Path, Path], None]


def check_code(folder: Path, trusts_code: bool, generates: bool) -> None:
    """Check that a model needs no code of its own, unless that may be run.

    generates: whether it generates text. Then its configuration may name code: whether transformers
        has a class of its own for the model is found where that is imported
        (headrace.workers.prepare.plain_folder).

    Raises ModelError, in one line that names the file.
    """
    if (folder / _ADAPTER_CONFIG).is_file():
        raise ModelError(
            f"{folder}: has an {_ADAPTER_CONFIG}, so that it is an adapter: give its base model, "
            "and this folder with --lora-modules"
        )
    if trusts_code:
        return
    has_tokenizer = (folder / "tokenizer.json").is_file()
    for name, is_needed in zip(_CONFIGS, (not generates, not has_tokenizer), strict=True):
        if _names_code(read_json_object(folder / name)) and is_needed:
            raise ModelError(
                f"{folder}: its {name} names code of its own (auto_map), which is not run: "
                f"{TRUST_FLAG} would run it"
            )


def code_files(folder: Path) -> list[Path]:
    """Return the files of code in a model's folder."""
    return sorted(folder.glob("*.py"))


def without_pickles(
    folder: Path, allows: bool, cache: Path, progress: Progress, run_prepare: RunPrepare
) -> Path:
    """Return the folder, or one like it in the cache whose pickled weights are safetensors.

    run_prepare: converts a folder in a process of its own.
    Raises ModelError if there are only pickled weights, and they must not be read.
    """
    if (folder / WEIGHTS).is_file() or (folder / INDEX).is_file():
        return folder
    pickles = pickled_files(folder)
    if not pickles:
        return folder
    if not allows:
        raise ModelError(f"{folder}: {only_pickles(pickles[0])}")
    digests = [file_digest(folder / name) for name in pickles if (folder / name).is_file()]
    key = joint_digest([_FORMAT, str(folder.absolute()), *digests])

    def build(entry: Path) -> None:
        progress(f"converting the pickled weights of {folder.name} to safetensors, once")
        run_prepare("pickle", folder, entry)
        for file in folder.iterdir():
            if not (entry / file.name).exists() and file.name not in (*pickles, MANIFEST):
                (entry / file.name).symlink_to(file.absolute())

    return cached(cache / "models" / f"{folder.name}-{key}", build, progress)


def only_pickles(name: str) -> str:
    """Return why a model is refused that has only pickled weights, among them a file."""
    if name == _CTRANSLATE2:
        return (
            f"has no safetensors: its {name} is CTranslate2's, of a Whisper model to be converted "
            f"by scripts/convert_whisper.py, or pickled, which can run code ({PICKLE_FLAG})"
        )
    return (
        f"has only pickled weights ({name}), which can run code when they are loaded and are "
        f"rejected: convert them to safetensors, or give {PICKLE_FLAG}"
    )


def pickled_files(folder: Path) -> list[str]:
    """Return the names of a folder's pickled weights, and of an index of such."""
    found = {file.name for pattern in _PICKLES for file in folder.glob(pattern)}
    if (folder / PICKLE_INDEX).is_file():
        found.add(PICKLE_INDEX)
    return sorted(found, key=lambda name: (name == PICKLE_INDEX, name))


def _names_code(config: object) -> bool:
    """Return whether a configuration, or one within it, has an auto_map."""
    return any("auto_map" in each and each["auto_map"] for each in _objects(config, _MAX_DEPTH))


def _objects(value: object, depth: int) -> Iterator[dict[str, object]]:
    if depth == 0:
        return
    if isinstance(value, dict):
        yield value
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for each in inner:
        yield from _objects(each, depth - 1)
