"""Write a folder in Hugging Face layout for a GGUF file: all but the weights, which stay there.

transformers makes the configuration and the tokenizer from the file's metadata.
"""

import json
import math
import struct
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from headrace.protocol.common.gguf_reference import split_parts, write_reference
from headrace.workers.prepare.gguf_bert import (
    BERT,
    bert_config,
    bert_places,
    write_bert_tokenizer,
)
from headrace.workers.prepare.gguf_header import GGUFError, GGUFHeader, read_gguf_header
from headrace.workers.prepare.gguf_names import place_tensors
from headrace.workers.prepare.stages import Stages

_U32, _F32 = 4, 0  # types of a metadata value and of a tensor
_ALIGNMENT = 32
# Sizes that transformers' tables lack for some architectures, whose configuration has them.
_SIZES = {
    "attention.key_length": "head_dim",
    "expert_feed_forward_length": "moe_intermediate_size",
}
_UNREADABLE = "gpt-oss.rope.scaling."  # metadata of which transformers (5.24) reads the keys' sizes
# What a mixtral's configuration has in common with those that transformers makes of its files.
_OF_MIXTRAL = {
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "head_dim", "max_position_embeddings", "rms_norm_eps",
    "rope_parameters", "tie_word_embeddings", "bos_token_id", "eos_token_id", "pad_token_id",
}  # fmt: skip
# How vectors of tokens become one, by llama.cpp's numbers; 0 is not at all.
_MODES = {1: "mean", 2: "cls", 3: "lasttoken"}
_RANK = 4
_VOCABULARY = {f"tokenizer.ggml.{name}" for name in ("tokens", "scores", "token_type", "merges")}


def write_gguf_folder(source: Path, output: Path) -> None:
    """Write configuration, tokenizer and the reference to a GGUF file, any part of a split one.

    Raises GGUFError if a file cannot be served.
    """
    files = split_parts(source)
    headers = [_checked_header(file) for file in files]
    _write_pooling(headers[0], output)
    if headers[0].architecture == BERT:
        return _write_bert(files, headers, output)
    stages = Stages(f"preparing {source.name}", total=6)
    with stages.stage("loading transformers", weight=2):
        import torch
        from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
    options = {"gguf_file": files[0].name, "local_files_only": True}
    folder = files[0].parent
    with _checkpoints_read_once(files[0], headers[0]):
        with stages.stage(f"reading {headers[0].architecture}"):
            config = AutoConfig.from_pretrained(folder, **options)
            _set_from_all_files(config, headers)
            _set_rope_factors(config, files, headers)
        with stages.stage("tokenizer", weight=2):
            tokenizer = AutoTokenizer.from_pretrained(folder, config=config, **options)
            tokenizer.save_pretrained(output)
    config = _with_experts(config, headers[0])
    _set_of_gpt_oss(config, headers[0])
    with stages.stage("names"), torch.device("meta"):
        config.dtype = torch.float32
        model = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
        model.config.architectures = [type(model).__name__]
        model.config.save_pretrained(output)
        if model.can_generate():
            model.generation_config.save_pretrained(output)
        tensors = place_tensors(files, headers, model)
    if tensors is None and len(files) > 1:
        raise GGUFError(f"a split {headers[0].architecture} cannot be read: join its parts first")
    write_reference(output, files, tensors)
    stages.close()


def _write_bert(files: list[Path], headers: list[GGUFHeader], output: Path) -> None:
    """Write the folder of an encoder, of which transformers (5.24) reads no GGUF files."""
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


def _set_from_all_files(config: Any, headers: list[GGUFHeader]) -> None:
    """Set what transformers leaves at a default, or derives from what it has not read."""
    names = {tensor.name for header in headers for tensor in header.tensors}
    if "output.weight" in names:
        config.tie_word_embeddings = False
    metadata = headers[0].metadata
    prefix = headers[0].architecture
    for key, name in _SIZES.items():
        value = metadata.get(f"{prefix}.{key}")
        if isinstance(value, int) and hasattr(config, name):
            setattr(config, name, value)
    size = metadata.get(f"{prefix}.vocab_size")
    size = metadata.get("tokenizer.ggml.tokens") if size is None else size
    if isinstance(size, int):
        config.vocab_size = size


def _with_experts(config: Any, header: GGUFHeader) -> Any:
    """Return a mixtral's configuration, whose files llama.cpp takes for a llama's with experts."""
    count = header.metadata.get("llama.expert_count")
    used = header.metadata.get("llama.expert_used_count")
    if header.architecture != "llama" or not count or not used:
        return config
    from transformers import MixtralConfig

    kept = {key: value for key, value in config.to_dict().items() if key in _OF_MIXTRAL}
    return MixtralConfig(**kept, num_local_experts=count, num_experts_per_tok=used)


def _set_of_gpt_oss(config: Any, header: GGUFHeader) -> None:
    """Set what transformers (5.24) fails to read of gpt-oss: its window, and whether and by what
    its rotary embedding is scaled."""
    if header.architecture != "gpt-oss":
        return
    window = header.metadata.get("gpt-oss.attention.sliding_window")
    config.sliding_window = window or config.sliding_window
    if f"{_UNREADABLE}factor" not in header.metadata:  # the class's default would scale them
        config.rope_parameters = {**config.rope_parameters, "rope_type": "default"}
    names = {"factor": "factor", "original_context_length": "original_max_position_embeddings"}
    for key, name in names.items():
        value = header.metadata.get(f"{_UNREADABLE}{key}")
        if value is not None:
            config.rope_parameters[name] = value
    theta = header.metadata.get("gpt-oss.rope.freq_base")
    if theta is not None:
        config.rope_parameters["rope_theta"] = theta


def _set_rope_factors(config: Any, files: list[Path], headers: list[GGUFHeader]) -> None:
    """Set the factors by which a rotary embedding's frequencies are divided, as in Llama 3.1.

    llama.cpp keeps them in a tensor, which transformers does not read (5.24). Of transformers'
    kinds of scaling, longrope has a factor for each frequency.
    """
    found = [
        (file, tensor)
        for file, header in zip(files, headers, strict=True)
        for tensor in header.tensors
        if tensor.name == "rope_freqs.weight" and tensor.type == "f32"
    ]
    parameters = getattr(config, "rope_parameters", None)
    if not found or not isinstance(parameters, dict):
        return
    file, tensor = found[0]
    count = math.prod(tensor.shape)
    with file.open("rb") as stream:
        stream.seek(tensor.offset)
        factors = list(struct.unpack(f"<{count}f", stream.read(4 * count)))
    if parameters.get("rope_type", "default") == "default" and set(factors) != {1.0}:
        config.rope_parameters = {
            **parameters,
            "rope_type": "longrope",
            "short_factor": factors,
            "long_factor": factors,
            "attention_factor": 1.0,
            "original_max_position_embeddings": config.max_position_embeddings,
        }


@contextmanager
def _checkpoints_read_once(file: Path, header: GGUFHeader) -> Iterator[None]:
    """Have transformers read a file's configuration once, from a copy without its vocabulary.

    With the vocabulary that takes 8 s for 150,000 tokens, twice.
    """
    from transformers import modeling_gguf_pytorch_utils

    tables: Any = modeling_gguf_pytorch_utils
    original = tables.load_gguf_checkpoint
    with TemporaryDirectory() as folder:
        lean = Path(folder) / file.name
        _write_lean(file, header, lean)
        config = original(str(lean), return_tensors=False)["config"]

    def load(path: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        if not any(key.startswith(_UNREADABLE) for key in header.entries):
            return _Checkpoint(config, lambda: original(path, *args, **kwargs))
        return _Checkpoint(config, lambda: _read_lean(file, header, original))

    tables.load_gguf_checkpoint = load
    try:
        yield
    finally:
        tables.load_gguf_checkpoint = original


class _Checkpoint(dict[str, Any]):
    """What transformers reads of a file: the configuration at once, the rest if it is needed."""

    def __init__(self, config: dict[str, Any], load: Any) -> None:
        super().__init__(config=config)
        self._load = load

    def __missing__(self, key: str) -> Any:
        return self._load()[key]


def _read_lean(file: Path, header: GGUFHeader, load: Any) -> Any:
    """Let transformers read a copy of a file without its tensors."""
    with TemporaryDirectory() as folder:
        lean = Path(folder) / file.name
        _write_lean(file, header, lean, dropped=set())
        return load(str(lean), return_tensors=False)


def _write_lean(
    file: Path, header: GGUFHeader, target: Path, dropped: Collection[str] = _VOCABULARY
) -> None:
    """Write a GGUF file with the same names and metadata, but no vocabulary and empty tensors."""
    kept = [key for key in header.entries if key not in dropped]
    kept = [key for key in kept if not key.startswith(_UNREADABLE)]
    size_key = f"{header.architecture}.vocab_size"
    tokens = header.metadata.get("tokenizer.ggml.tokens")
    adds_size = size_key not in header.metadata and isinstance(tokens, int)
    with file.open("rb") as stream, target.open("wb") as lean:
        counts = (3, len(header.tensors), len(kept) + adds_size)
        lean.write(b"GGUF" + struct.pack("<IQQ", *counts))
        for key in kept:
            stream.seek(header.entries[key].start)
            lean.write(stream.read(header.entries[key].stop - header.entries[key].start))
        if adds_size:
            lean.write(_string(size_key) + struct.pack("<II", _U32, tokens))
        for tensor in header.tensors:
            lean.write(_string(tensor.name) + struct.pack("<IQIQ", 1, 0, _F32, 0))
        lean.write(bytes(2 * _ALIGNMENT))


def _string(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data
