"""Write a folder in Hugging Face layout for a GGUF file: all but the weights, which stay there."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from headrace.protocol.common.gguf_reference import FACTS, split_parts, write_reference
from headrace.workers.prepare.gguf_bert import (
    BERT,
    bert_config,
    bert_places,
    write_bert_tokenizer,
)
from headrace.workers.prepare.gguf_decoding import check_decoding
from headrace.workers.prepare.gguf_header import GGUFError, GGUFHeader, read_gguf_header
from headrace.workers.prepare.gguf_models.facts import ModelFacts
from headrace.workers.prepare.gguf_models.registry import find_architecture
from headrace.workers.prepare.gguf_models.rope import RopeFactors
from headrace.workers.prepare.gguf_models.targets import Architecture
from headrace.workers.prepare.gguf_places import place_tensors, tensor_bytes
from headrace.workers.prepare.gguf_rope_check import check_rope
from headrace.workers.prepare.gguf_tokenizer import UNLIMITED, write_tokenizer
from headrace.workers.prepare.gguf_vocabulary import (
    CONTROL,
    UNKNOWN,
    USER_DEFINED,
    Vocabulary,
    read_vocabulary,
)
from headrace.workers.prepare.stages import Stages

# How vectors of tokens become one, by llama.cpp's numbers; 0 is not at all.
_MODES = {1: "mean", 2: "cls", 3: "lasttoken"}
_RANK = 4
_FACTORS = ("rope_freqs", "rope_factors_long", "rope_factors_short")


def write_gguf_folder(source: Path, output: Path) -> None:
    """Write configuration, tokenizer and the reference to a GGUF file, any part of a split one.

    Raises GGUFError if a file cannot be served.
    """
    output.mkdir(exist_ok=True)
    files = split_parts(source)
    headers = [_checked_header(file) for file in files]
    _write_pooling(headers[0], output)
    if headers[0].architecture == BERT:
        return _write_bert(files, headers, output)
    facts = ModelFacts(headers)
    architecture = find_architecture(facts)
    stages = Stages(f"preparing {source.name}", total=6)
    with stages.stage("loading transformers", weight=2):
        import torch  # noqa: F401
        import transformers  # noqa: F401
    with stages.stage("tokenizer", weight=2):
        vocabulary = read_vocabulary(files[0], headers[0])
        write_tokenizer(vocabulary, output)
    with stages.stage(f"reading {facts.architecture}"):
        factors = _rope_factors(files, headers)
        model = make_model(architecture, facts, factors, vocabulary)
        check_rope(model, facts, factors)
    with stages.stage("names"):
        _check_words(vocabulary, facts)
        tensors = place_tensors(headers, architecture, facts, model)
        for key in facts.refuse_unread(_known_keys()):
            stages.note(f"{key} is not known, and left out")
        check_decoding(files, headers)
        model.config.save_pretrained(output)
        model.generation_config.save_pretrained(output)
        _write_facts(model.config, vocabulary, output)
    write_reference(output, files, tensors)
    stages.close()


def _check_words(vocabulary: Vocabulary, facts: ModelFacts) -> None:
    """Raise GGUFError if there are tokens that the model has no vectors for."""
    count, vectors = len(vocabulary.tokens), facts.rows("token_embd.weight")
    if count > vectors:
        raise GGUFError(f"has {count} tokens, and vectors for {vectors}")


def _write_facts(config: Any, vocabulary: Vocabulary, output: Path) -> None:
    """Write what frontends read of the configuration and the tokenizer.

    transformers would make another tokenizer for some configurations.
    """
    folder = output / FACTS
    folder.mkdir()
    shutil.copyfile(output / "tokenizer.json", folder / "tokenizer.json")
    special = vocabulary.special
    roles = ("bos", "eos", "pad", "unk")
    texts = {role: vocabulary.tokens[special[role]] if role in special else None for role in roles}
    facts = {
        "config": json.loads(config.to_json_string(use_diff=False)),
        "special_tokens": {f"{role}_token": text for role, text in texts.items()},
        "eos_token_id": special.get("eos"),
        "model_max_length": UNLIMITED,
        "tokenizer_class": "PreTrainedTokenizerFast",
        "added_tokens": dict(vocabulary.of_type(CONTROL, UNKNOWN, USER_DEFINED)),
    }
    (folder / "facts.json").write_text(json.dumps(facts), encoding="utf-8")


def make_model(
    architecture: Architecture, facts: ModelFacts, factors: RopeFactors, vocabulary: Vocabulary
) -> Any:
    """Return the transformers model of a file, without memory for its weights.

    Raises GGUFError if transformers has none with such values.
    """
    import torch
    from huggingface_hub.errors import StrictDataclassError
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM

    values = architecture.config(facts, factors)
    kind = values.pop("model_type", architecture.model_type)
    try:
        config = CONFIG_MAPPING[kind](**values)
    except (TypeError, ValueError, KeyError, StrictDataclassError) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise GGUFError(f"is no valid {kind}: {' '.join(lines[-2:]) or error!r}") from error
    config.dtype = torch.float32
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
    model.config.architectures = [type(model).__name__]
    ends = vocabulary.ends[0] if len(vocabulary.ends) == 1 else vocabulary.ends or None
    model.config.eos_token_id = model.generation_config.eos_token_id = ends
    model.generation_config.bos_token_id = vocabulary.special.get("bos")
    model.generation_config.pad_token_id = vocabulary.special.get("pad")
    return model


def _known_keys() -> set[str]:
    """Return the keys of all of llama.cpp's architectures, without their names."""
    from gguf import Keys

    groups = [each for each in vars(Keys).values() if isinstance(each, type)]
    keys = [key for group in groups for key in vars(group).values() if isinstance(key, str)]
    start = "{arch}."
    return {key.removeprefix(start) for key in keys if key.startswith(start)} | {
        "rope.scale_linear"
    }


def _rope_factors(files: list[Path], headers: list[GGUFHeader]) -> RopeFactors:
    """Read the tensors of factors by which frequencies are divided. Raises GGUFError for those
    that are no numbers greater than 0."""
    from gguf import GGMLQuantizationType
    from gguf.quants import dequantize

    found = {}
    for file, header in zip(files, headers, strict=True):
        for tensor in header.tensors:
            name = tensor.name.removesuffix(".weight")
            if name not in _FACTORS:
                continue
            with file.open("rb") as stream:
                stream.seek(tensor.offset)
                data = np.frombuffer(stream.read(tensor_bytes(tensor)), np.uint8)
            kind = GGMLQuantizationType[tensor.type.upper()]
            values = dequantize(data, kind).astype(np.float64).reshape(-1)
            if not (np.isfinite(values) & (values > 0)).all():
                raise GGUFError(f"has {name} that are no factors")
            found[name] = values
    return RopeFactors(found)


def _write_bert(files: list[Path], headers: list[GGUFHeader], output: Path) -> None:
    """Write the folder of an encoder."""
    if len(files) > 1:
        raise GGUFError(f"a split {BERT} cannot be read: join its parts first")
    stages = Stages(f"preparing {files[0].name}", total=3)
    with stages.stage("loading transformers"):
        import torch
        from transformers import BertModel
    with stages.stage("tokenizer"):
        config = bert_config(headers[0])
        config.save_pretrained(output)
        write_bert_tokenizer(files[0], headers[0], output)
    with stages.stage("names"), torch.device("meta"):
        names = BertModel(config, add_pooling_layer=False).state_dict()
    places = bert_places(headers[0], config.num_hidden_layers, names)
    write_reference(output, files, places)
    stages.close()


def _write_pooling(header: GGUFHeader, output: Path) -> None:
    """Write how a model pools, in the files of sentence-transformers, if the file says so.

    llama.cpp normalizes what it has pooled. Raises GGUFError for a classifier of pairs.
    """
    kind = header.metadata.get(f"{header.architecture}.pooling_type", 0)
    if kind == _RANK:
        raise GGUFError("ranks pairs of texts, which is not read from GGUF: give safetensors")
    mode = _MODES.get(kind)
    if mode is None:
        return
    kinds = ("Transformer", "Pooling", "Normalize")
    modules = [
        {"idx": n, "name": str(n), "path": f"{n}_{kind}" if n else "", "type": kind}
        for n, kind in enumerate(kinds)
    ]
    (output / "modules.json").write_text(json.dumps(modules), encoding="utf-8")
    folder = output / "1_Pooling"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"pooling_mode": mode}), encoding="utf-8")


def _checked_header(file: Path) -> GGUFHeader:
    """Read a file's header. Raises GGUFError if the file is not whole."""
    header = read_gguf_header(file)
    size_bytes = file.stat().st_size
    if size_bytes < header.size_bytes:
        raise GGUFError(f"is cut short: {size_bytes} bytes of {header.size_bytes}")
    if header.splits > 1 and split_parts(file) == [file]:
        raise GGUFError(
            f"is one of {header.splits} parts of a split GGUF, which must be named "
            f"...-00001-of-{header.splits:05}.gguf"
        )
    return header
