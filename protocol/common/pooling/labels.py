"""Read what a classifier's files say about its labels, and what makes numbers of its scores."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from headrace.protocol.common.pooling.json_files import PoolingFilesError, is_count, read_object
from headrace.protocol.common.pooling.sentence_modules import read_settings

# Activations by the names of torch's classes.
_ACTIVATIONS = {"Sigmoid": "sigmoid", "Softmax": "softmax", "Identity": "none"}
_PROBLEMS = {
    "regression": "none",
    "single_label_classification": "softmax",
    "multi_label_classification": "sigmoid",
}


def read_labels(folder: Path, config: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names of a classifier's labels, in order."""
    names = config.get("id2label")
    if isinstance(names, Mapping) and names:
        try:
            by_number = {int(number): str(name) for number, name in names.items()}
        except (TypeError, ValueError):
            by_number = {}
        if sorted(by_number) == list(range(len(by_number))):
            return tuple(by_number[number] for number in range(len(by_number)))
        raise PoolingFilesError(f"{folder}: its config.json has an id2label that skips numbers")
    count = config.get("num_labels")
    return tuple(f"LABEL_{number}" for number in range(int(count) if is_count(count) else 2))  # type: ignore[arg-type]


def read_activation(folder: Path, config: Mapping[str, Any], num_labels: int) -> str:
    """Return what makes numbers of scores: sigmoid, softmax or none.

    Cross-encoders keep it in their settings or in config.json, under either of two names.
    """
    own = read_object(folder / "config.json")
    nested = own.get("sentence_transformers")
    given = (
        read_settings(folder).get("activation_fn"),
        nested.get("activation_fn") if isinstance(nested, dict) else None,
        own.get("sbert_ce_default_activation_function"),
    )
    name = next((value for value in given if isinstance(value, str)), None)
    if name is not None:
        kind = name.rpartition(".")[2]
        if kind not in _ACTIVATIONS:
            raise PoolingFilesError(f"{folder}: the activation {kind[:100]!r} is not supported")
        return _ACTIVATIONS[kind]
    by_problem = _PROBLEMS.get(str(config.get("problem_type")))
    return by_problem or ("softmax" if num_labels > 1 else "sigmoid")
