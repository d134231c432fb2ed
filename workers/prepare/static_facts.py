"""Write what frontends need of a model without layers, which transformers does not know."""

import json
from pathlib import Path
from typing import Any

from headrace.protocol.common.pooling.json_files import PoolingFilesError, read_object

_TOKENIZER = "tokenizer.json"


def write_static_facts(source: Path, output: Path, config: dict[str, Any]) -> None:
    """Write tokenizer.json and facts.json of a folder.

    Texts get no special tokens, are not cut and not padded, whatever the tokenizer's file says.
    Raises PoolingFilesError if it cannot be read.
    """
    values = read_object(source / _TOKENIZER)
    if not values:
        raise PoolingFilesError(f"{source}: has no {_TOKENIZER}")
    values |= {"post_processor": None, "truncation": None, "padding": None}
    added = values.get("added_tokens")
    tokens = [each for each in added if isinstance(each, dict)] if isinstance(added, list) else []
    facts = {
        "config": config,
        "special_tokens": {},
        "eos_token_id": None,
        "model_max_length": config["max_position_embeddings"],
        "tokenizer_class": "Tokenizer",
        "added_tokens": {each.get("id"): each.get("content") for each in tokens},
    }
    (output / _TOKENIZER).write_text(json.dumps(values), encoding="utf-8")
    (output / "facts.json").write_text(json.dumps(facts), encoding="utf-8")
