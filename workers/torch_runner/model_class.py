"""Choose the class of transformers that runs a model folder, or its text part."""

import inspect
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headrace.workers.errors import ModelUnsupported, named_in_one_line
from headrace.workers.torch_runner.text_generator import text_generator

_AUTO_CLASS = "AutoModelForCausalLM"  # the key of auto_map for models that generate text
_WHOLES = ("IMAGE_TEXT_TO_TEXT", "MULTIMODAL_LM")  # of transformers' tables of classes
# Types that transformers knows by another name, and that are the same otherwise.
SAME_TYPES = {"kimi_k2": "deepseek_v3"}


@dataclass(frozen=True, slots=True)
class ModelChoice:
    """The class of a model.

    whole: the class of which it is the text part; "": it is the model's own.
    notes: lines for the operator.
    """

    model_class: Any
    whole: str = ""
    notes: tuple[str, ...] = ()

    def read_config(self, folder: Path) -> Any:
        """Return transformers' configuration of the model, of the text alone if it is a part.

        Raises whatever transformers raises for a folder.
        """
        if not self.whole:
            config = self.model_class.config_class.from_pretrained(folder, local_files_only=True)
            config.model_type = SAME_TYPES.get(config.model_type, config.model_type)
            return config
        whole = _whole_config(folder, read_config(folder))
        config = whole.get_text_config(decoder=True)
        config.tie_word_embeddings = getattr(whole, "tie_word_embeddings", False)
        return config


def read_config(folder: Path) -> dict[str, Any]:
    """Return config.json. Raises ModelUnsupported if there is none, or it is not an object."""
    try:
        config = json.loads((folder / "config.json").read_text())
    except FileNotFoundError as error:
        raise ModelUnsupported(f"{folder} has no config.json") from error
    except (OSError, ValueError, RecursionError) as error:
        raise ModelUnsupported(f"{folder / 'config.json'} cannot be read") from error
    if not isinstance(config, dict):
        raise ModelUnsupported(f"{folder / 'config.json'} is not a JSON object")
    return config


def choose_class(folder: Path, trusts_code: bool = False) -> ModelChoice:
    """Return the class that config.json names; only its module is imported, of hundreds.

    trusts_code: whether code of the folder may run.

    Raises ModelUnsupported if there is none that generates text.
    """
    config = read_config(folder)
    name = _architecture(folder, config)
    auto_map = config.get("auto_map")
    if trusts_code and isinstance(auto_map, dict) and isinstance(auto_map.get(_AUTO_CLASS), str):
        return ModelChoice(_checked(_own_class(folder, auto_map[_AUTO_CLASS])))
    if auto_map and not has_class(config):
        raise ModelUnsupported(
            f"{folder} needs code of its own (auto_map), which is not run: transformers has no "
            f"{name} for the type {config.get('model_type')}"
        )
    notes = (f"auto_map is ignored: transformers has {name}",) if auto_map else ()
    if name in _text_classes():
        import transformers

        return ModelChoice(_checked(getattr(transformers, name)), notes=notes)
    return _text_part(folder, config, name, notes)


def has_class(config: dict[str, Any]) -> bool:
    """Return whether transformers has the class that a configuration names, and its type."""
    import transformers
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    names, kind = config.get("architectures"), config.get("model_type")
    name = names[0] if isinstance(names, list) and names else None
    known = isinstance(kind, str) and SAME_TYPES.get(kind, kind) in CONFIG_MAPPING
    if not known or not isinstance(name, str) or not name.isidentifier():
        return False
    return hasattr(getattr(transformers, name, None), "from_pretrained")


def _architecture(folder: Path, config: dict[str, Any]) -> str:
    names = config.get("architectures")
    if not isinstance(names, list) or not names or not isinstance(names[0], str):
        raise ModelUnsupported(f"{folder / 'config.json'} names no architecture")
    return names[0]


def _text_classes() -> set[str]:
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return set(_names(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()))


def _text_part(
    folder: Path, config: dict[str, Any], name: str, notes: tuple[str, ...]
) -> ModelChoice:
    """Return the class of the text of a model that reads pictures or sounds, too."""
    refusal = ModelUnsupported(f"{name} is not a text generation model of transformers")
    if name not in _whole_classes() or not has_class(config):
        raise refusal
    try:
        whole = _whole_config(folder, config)
        text = whole.get_text_config(decoder=True)
    except Exception as error:  # whatever transformers raises for a folder
        raise ModelUnsupported(f"{folder} cannot be loaded: {named_in_one_line(error)}") from error
    if text is whole or any(getattr(each, "is_encoder_decoder", False) for each in (whole, text)):
        raise refusal
    model_class = _class_of_text(name, text)
    if model_class is None:
        raise ModelUnsupported(
            f"{name} is not a text generation model of transformers, and its text model "
            f"({text.model_type}) has no head that is known"
        )
    note = f"only text is served, by {model_class.__name__}: {name} reads pictures or sounds, too"
    return ModelChoice(_checked(model_class), name, (*notes, note))


def _whole_classes() -> set[str]:
    """Return the names of classes that generate text from pictures or sounds."""
    from transformers.models.auto import modeling_auto

    tables = (getattr(modeling_auto, f"MODEL_FOR_{each}_MAPPING_NAMES", {}) for each in _WHOLES)
    return {name for table in tables for name in _names(table.values())}


def _names(values: Iterable[str | tuple[str, ...]]) -> Iterator[str]:
    for value in values:
        yield from (value,) if isinstance(value, str) else value


def _whole_config(folder: Path, config: dict[str, Any]) -> Any:
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    kind = config["model_type"]
    return CONFIG_MAPPING[SAME_TYPES.get(kind, kind)].from_pretrained(folder, local_files_only=True)


def _class_of_text(whole: str, text: Any) -> Any | None:
    """Return the class that generates with a text configuration; None if there is none."""
    import transformers
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_MAPPING_NAMES,
    )

    name = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(text.model_type)
    if isinstance(name, str):
        return getattr(transformers, name)
    whole_class = getattr(transformers, whole)
    base = MODEL_MAPPING_NAMES.get(text.model_type)
    text_class = getattr(transformers, base, None) if isinstance(base, str) else None
    text_class = text_class or _text_class_beside(whole_class, text)
    return None if text_class is None else text_generator(text_class, whole_class)


def _text_class_beside(whole_class: Any, text: Any) -> Any | None:
    """Return the text model in a class's module, for those that transformers does not list."""
    members = vars(inspect.getmodule(whole_class)).items()
    found = [
        each
        for name, each in members
        if name.endswith("TextModel") and getattr(each, "config_class", None) is type(text)
    ]
    return found[0] if len(found) == 1 else None


def _own_class(folder: Path, reference: str) -> Any:
    """Return a class of the folder's own code, which runs with that."""
    from transformers.dynamic_module_utils import get_class_from_dynamic_module

    load: Callable[..., Any] = get_class_from_dynamic_module
    try:
        return load(reference, str(folder), local_files_only=True)
    except Exception as error:  # whatever the code of strangers raises
        first_line = (str(error).splitlines() or [type(error).__name__])[0]
        raise ModelUnsupported(f"{folder}: {reference} cannot be loaded: {first_line}") from error


def _checked(model_class: Any) -> Any:
    if "logits_to_keep" not in inspect.signature(model_class.forward).parameters:
        name = model_class.__name__
        raise ModelUnsupported(f"{name} cannot compute the logits of chosen positions alone")
    return model_class
