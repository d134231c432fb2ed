"""Find models without layers: a text's vector is the mean of its tokens' rows in a table.

sentence-transformers has a module for them, StaticEmbedding; model2vec, which makes most of them,
has names of its own for the same, and may give several tokens one row, and tokens weights.
"""

from pathlib import Path
from typing import Any, Final

from headrace.protocol.common.pooling.headers import tensor_shape
from headrace.protocol.common.pooling.json_files import PoolingFilesError, is_count, read_object
from headrace.protocol.common.pooling.module_list import read_routes

STATIC_TYPE: Final = "static-embedding"  # of the configuration that is made for such a model
TABLES: Final = ("embedding.weight", "embeddings")
MAPPING, WEIGHTS = "mapping", "weights"
_FILE = "model.safetensors"
_MODEL2VEC = "model2vec"
_MODULE = "StaticEmbedding"
_MAX_TOKENS = 131_072  # of a text, where the authors set no limit


def is_static(folder: Path) -> bool:
    """Return whether a folder holds a model without layers. Raises PoolingFilesError."""
    routes = read_routes(folder)
    if routes is not None:
        modules = [entry.kind for found in routes.lists.values() for entry in found]
        return _MODULE in modules
    kind = read_object(folder / "config.json").get("model_type", _MODEL2VEC)
    return kind == _MODEL2VEC and tensor_shape(folder / _FILE, TABLES[1]) is not None


def static_config(folder: Path) -> dict[str, Any]:
    """Return a configuration, in the form of other models', for the table in a folder.

    Raises PoolingFilesError if there is none.
    """
    shapes = (tensor_shape(folder / _FILE, name) for name in TABLES)
    shape = next((each for each in shapes if each is not None), None)
    if shape is None or len(shape) != 2:
        raise PoolingFilesError(f"{folder}: its {_FILE} has no table of embeddings")
    mapping = tensor_shape(folder / _FILE, MAPPING)
    return {
        "model_type": STATIC_TYPE,
        "architectures": [_MODULE],
        "vocab_size": shape[0] if mapping is None else mapping[0],
        "hidden_size": shape[1],
        "max_position_embeddings": _max_tokens(folder),
    }


def _max_tokens(folder: Path) -> int:
    """Return how many tokens of a text the tokenizer leaves, by which the authors' libraries go."""
    truncation = read_object(folder / "tokenizer.json").get("truncation")
    found = truncation.get("max_length") if isinstance(truncation, dict) else None
    return found if isinstance(found, int) and is_count(found) else _MAX_TOKENS


def static_modules(folder: Path) -> list[dict[str, Any]]:
    """Return the list of modules of a model that has been written by model2vec alone."""
    kinds = [_MODULE]
    if read_object(folder / "config.json").get("normalize"):
        kinds.append("Normalize")
    return [
        {"idx": n, "name": str(n), "path": "" if n == 0 else f"{n}_{kind}", "type": kind}
        for n, kind in enumerate(kinds)
    ]
