"""Find a text model's weights in the files of a model that reads pictures, too."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import safe_open
from transformers import conversion_mapping
from transformers.conversion_mapping import (
    get_checkpoint_conversion_mapping,
    register_checkpoint_conversion_mapping,
)
from transformers.modeling_utils import PreTrainedModel

from headrace.workers.errors import ModelUnsupported
from headrace.workers.torch_runner.leftovers import is_of_text


def find_renames(model: PreTrainedModel, folder: Path) -> dict[str, str]:
    """Return what the beginnings of the files' names become in the text model: patterns, and what
    replaces them.

    The table of the tokens' embeddings, of whose name and shape there is one, tells the prefix.

    Raises ModelUnsupported if it is not there, and OSError or SafetensorError if a file cannot be
    read.
    """
    names = _shapes(folder)
    embedding = _name_of(model, model.get_input_embeddings())
    base = f"{model.base_model_prefix}."
    tail = embedding.removeprefix(base)
    shape = list(model.get_parameter(embedding).shape)
    found = [name for name in _ending(names, tail) if names[name] == shape]
    if not found:
        raise ModelUnsupported(f"{folder} has no {tail} of {shape}, the text's embeddings")
    prefix = max((name.removesuffix(tail) for name in found), key=_counter(names))
    renames = {} if prefix in ("", base) else {f"^{re.escape(prefix)}": base}
    output: Callable[[], object] = model.get_output_embeddings
    head = _name_of(model, output())
    for name in _ending(names, head):
        if name != head and names[name] == shape:
            renames = {f"^{re.escape(name)}$": head} | renames
    return renames


def renamed(name: str, renames: Mapping[str, str]) -> str:
    """Return a name of the files as the text model has it."""
    for pattern, replacement in renames.items():
        changed = re.sub(pattern, replacement, name)
        if changed != name:
            return changed
    return name


@contextmanager
def adopted_conversions(model_class: Any, text_type: str, whole_type: str) -> Iterator[None]:
    """Within the context, let a text model's experts and names be converted as those of the whole,
    where transformers has conversions for that alone.

    text_type, whole_type: the types of both configurations.
    """
    conversions_of: Callable[[str], Any] = get_checkpoint_conversion_mapping
    name = model_class.__name__
    own = (conversions_of(each) for each in (name, text_type))
    conversions = conversions_of(whole_type)
    if conversions is None or any(each is not None for each in own):
        yield
        return
    register_checkpoint_conversion_mapping(name, conversions)
    try:
        yield
    finally:  # another model of the class may be loaded or saved later
        tables: Any = conversion_mapping
        tables._checkpoint_conversion_mapping_cache.pop(name)
        tables.USER_REGISTERED_MAPPINGS.discard(name)


def of_text_part(names: Iterable[str], renames: Mapping[str, str], folder: Path) -> set[str]:
    """Return which of a text model's names are of tensors that files have for the text.

    Without a prefix that tells the text's tensors it is all.
    """
    if not renames:
        return set(names)
    return set(names) & {renamed(name, renames) for name in _shapes(folder)} - set(_shapes(folder))


def _shapes(folder: Path) -> dict[str, list[int]]:
    """Return the shapes of the text's tensors by name."""
    shapes = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            for name in filter(is_of_text, file.keys()):
                shapes[name] = file.get_slice(name).get_shape()
    return shapes


def _ending(names: Iterable[str], tail: str) -> list[str]:
    return [name for name in names if name == tail or name.endswith(f".{tail}")]


def _counter(names: Iterable[str]) -> Callable[[str], int]:
    def count(prefix: str) -> int:
        return sum(name.startswith(prefix) for name in names)

    return count


def _name_of(model: PreTrainedModel, module: object) -> str:
    """Return the name of a module's weight."""
    return next(f"{name}.weight" for name, each in model.named_modules() if each is module)
