"""Convert a Whisper model of CTranslate2 to a folder in Hugging Face layout.

Usage: python -P scripts/convert_whisper.py SOURCE [SOURCE ...] TARGET

SOURCE is a folder with model.bin (or its parts model.bin.part1, ... over several folders),
config.json and tokenizer.json, as faster-whisper's models and some Python packages have them.
Weights in float16 or float32 stay as they are; int8, int16 and bfloat16 become float32, exactly.
TARGET must not exist; it appears when it is whole.
"""

import argparse
import json
import mmap
import re
import shutil
import struct
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file
from tokenizers import AddedToken, Tokenizer

Array = npt.NDArray[Any]

# How the format numbers element types. bfloat16 is read as bits.
_TYPES: Mapping[int, type[np.generic]] = {
    0: np.float32,
    1: np.int8,
    2: np.int16,
    3: np.int32,
    4: np.float16,
    5: np.uint16,
}
_BFLOAT16 = 5
_VERSIONS = range(4, 7)  # of the format: older ones have no element types, and no Whisper
_GELU = 3  # as the format numbers activations; Whisper has no other
_TIMESTAMPS = 1501  # from 0.00 to 30.00 s in steps of 0.02 s
# Names of one layer's parts, from CTranslate2's to transformers'.
_LAYER = {
    "self_attention/layer_norm": "self_attn_layer_norm",
    "attention/layer_norm": "encoder_attn_layer_norm",
    "ffn/layer_norm": "final_layer_norm",
    "ffn/linear_0": "fc1",
    "ffn/linear_1": "fc2",
}
_FUSED = {
    "self_attention/linear_0": ("self_attn", ("q_proj", "k_proj", "v_proj")),
    "self_attention/linear_1": ("self_attn", ("out_proj",)),
    "attention/linear_0": ("encoder_attn", ("q_proj",)),
    "attention/linear_1": ("encoder_attn", ("k_proj", "v_proj")),
    "attention/linear_2": ("encoder_attn", ("out_proj",)),
}
_OUTSIDE = {
    "encoder/conv1": "encoder.conv1",
    "encoder/conv2": "encoder.conv2",
    "encoder/position_encodings": "encoder.embed_positions",
    "encoder/layer_norm": "encoder.layer_norm",
    "decoder/embeddings": "decoder.embed_tokens",
    "decoder/position_encodings": "decoder.embed_positions",
    "decoder/layer_norm": "decoder.layer_norm",
}
_KINDS = {
    "weight": "weight",
    "bias": "bias",
    "gamma": "weight",
    "beta": "bias",
    "encodings": "weight",
}


class ConversionError(ValueError):
    """A folder is not a Whisper model of CTranslate2 that can be converted."""


class _Reader:
    """Read the numbers, strings and arrays of a model.bin in turn."""

    def __init__(self, data: bytes | mmap.mmap) -> None:
        self._data, self._at = memoryview(data), 0

    def take(self, count: int) -> memoryview:
        """Return the next bytes. Raises ConversionError if there are fewer."""
        part = self._data[self._at : self._at + count]
        if len(part) < count:
            raise ConversionError(f"model.bin ends after {len(self._data):,} bytes: it is cut off")
        self._at += count
        return part

    def number(self, layout: str) -> int:
        """Return the next number: B, H or I of the struct module."""
        return int(struct.unpack(f"<{layout}", self.take(struct.calcsize(layout)))[0])

    def string(self) -> str:
        """Return the next string, which is counted and ends with a zero."""
        return bytes(self.take(self.number("H"))).rstrip(b"\0").decode()


def read_model(data: bytes | mmap.mmap) -> dict[str, Array]:
    """Return the variables of a model.bin, quantized ones in float32.

    Raises ConversionError if it is cut off, or not a Whisper model.
    """
    reader = _Reader(data)
    version = reader.number("I")
    if version not in _VERSIONS:
        raise ConversionError(f"model.bin begins with {version}, which is no version of the format")
    name, _ = reader.string(), reader.number("I")
    if name != "WhisperSpec":
        raise ConversionError(f"model.bin is a {name}, not a WhisperSpec")
    found = dict(_variable(reader) for _ in range(reader.number("I")))
    for alias, original in [(reader.string(), reader.string()) for _ in range(reader.number("I"))]:
        found[alias] = found[original]
    scales = {name: found.pop(name) for name in list(found) if name.endswith("_scale")}
    for name, scale in scales.items():
        quantized = found[name.removesuffix("_scale")].astype(np.float32)
        each = scale.reshape(scale.shape + (1,) * (quantized.ndim - scale.ndim))
        found[name.removesuffix("_scale")] = quantized / each.astype(np.float32)
    return found


def _variable(reader: _Reader) -> tuple[str, Array]:
    name = reader.string()
    shape = [reader.number("I") for _ in range(reader.number("B"))]
    kind = reader.number("B")
    if kind not in _TYPES:
        raise ConversionError(f"model.bin: {name} is of type {kind}, which is unknown")
    array = np.frombuffer(reader.take(reader.number("I")), _TYPES[kind])
    if kind == _BFLOAT16:
        array = (array.astype(np.uint32) << 16).view(np.float32)
    return name, array.reshape(shape)


def weights_of(variables: Mapping[str, Array]) -> dict[str, Array]:
    """Return the weights under transformers' names.

    Raises ConversionError if a variable has no place there: nothing is left out unnoticed.
    """
    weights = dict[str, Array]()
    for name, array in variables.items():
        if array.ndim == 0:
            continue  # a setting
        if name == "decoder/projection/weight":  # transformers has it once, as the embedding
            if not np.array_equal(array, variables["decoder/embeddings/weight"]):
                raise ConversionError("model.bin: the output layer is not the embedding")
            continue
        place, _, kind = name.rpartition("/")
        if kind not in _KINDS:
            raise ConversionError(f"model.bin: {name} is unknown")
        weights |= _place(place, _KINDS[kind], array, name)
    types = {array.dtype for array in weights.values()}
    if len(types) > 1:  # float16 beside int8
        weights = {name: array.astype(np.float32) for name, array in weights.items()}
    return {name: np.ascontiguousarray(array) for name, array in weights.items()}


def _place(place: str, kind: str, array: Array, name: str) -> dict[str, Array]:
    """Return one variable as weights: attention's projections are stored as one matrix."""
    if place in _OUTSIDE:
        return {f"model.{_OUTSIDE[place]}.{kind}": array}
    found = re.fullmatch(r"(encoder|decoder)/layer_(\d+)/(.+)", place)
    if found is None or found[3] not in _LAYER | _FUSED:
        raise ConversionError(f"model.bin: {name} is unknown")
    prefix = f"model.{found[1]}.layers.{found[2]}"
    if found[3] in _LAYER:
        return {f"{prefix}.{_LAYER[found[3]]}.{kind}": array}
    attention, parts = _FUSED[found[3]]
    split = zip(parts, np.split(array, len(parts)), strict=True)
    weights = {f"{prefix}.{attention}.{part}.{kind}": rows for part, rows in split}
    keys = weights.pop(f"{prefix}.{attention}.k_proj.bias", None)  # Whisper's keys have none
    if keys is not None and np.any(keys):
        raise ConversionError(f"model.bin: {name} has a bias for keys")
    return weights


def _count_layers(weights: Mapping[str, Array], half: str) -> int:
    layer = re.compile(rf"model\.{half}\.layers\.\d+\.fc1\.bias")
    return sum(layer.fullmatch(name) is not None for name in weights)


def model_config(variables: Mapping[str, Array], weights: Mapping[str, Array]) -> dict[str, Any]:
    """Return config.json without ids of tokens. Raises ConversionError at what Whisper has not."""
    for name in ("decoder/activation", "encoder/activation"):
        if name in variables and int(variables[name]) != _GELU:
            raise ConversionError(f"model.bin: {name} is {int(variables[name])}, not GELU")
    vocab, width = weights["model.decoder.embed_tokens.weight"].shape
    config: dict[str, Any] = {
        "architectures": ["WhisperForConditionalGeneration"],
        "model_type": "whisper",
        "activation_function": "gelu",
        "d_model": width,
        "dtype": str(weights["model.decoder.embed_tokens.weight"].dtype),
        "is_encoder_decoder": True,
        "max_source_positions": len(weights["model.encoder.embed_positions.weight"]),
        "max_target_positions": len(weights["model.decoder.embed_positions.weight"]),
        "num_mel_bins": weights["model.encoder.conv1.weight"].shape[1],
        "scale_embedding": bool(variables.get("decoder/scale_embeddings", 0)),
        "tie_word_embeddings": True,
        "vocab_size": vocab,
    }
    for half in ("encoder", "decoder"):
        config[f"{half}_attention_heads"] = int(variables[f"{half}/num_heads"])
        config[f"{half}_ffn_dim"] = len(weights[f"model.{half}.layers.0.fc1.bias"])
        config[f"{half}_layers"] = _count_layers(weights, half)
    config["num_hidden_layers"] = config["encoder_layers"]
    return config


def with_timestamps(tokenizer: Tokenizer) -> Tokenizer:
    """Add the tokens of timestamps, which CTranslate2's files lack, after the last token."""
    times = [f"<|{number * 0.02:.2f}|>" for number in range(_TIMESTAMPS)]
    tokenizer.add_tokens([AddedToken(time, normalized=False) for time in times])
    return tokenizer


def generation_config(tokenizer: Tokenizer, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return generation_config.json from the tokenizer and CTranslate2's config.json.

    Ids of languages come from the tokenizer: those that CTranslate2 has for English-only models
    are off by one.
    """
    ids = tokenizer.get_vocab()
    end, start = ids["<|endoftext|>"], ids["<|startoftranscript|>"]
    is_multilingual = _is_multilingual(tokenizer)
    config: dict[str, Any] = {
        "bos_token_id": end,
        "decoder_start_token_id": start,
        "eos_token_id": end,
        "pad_token_id": end,
        "is_multilingual": is_multilingual,
        "max_initial_timestamp_index": 50,
        "max_length": 448,
        "no_timestamps_token_id": ids["<|notimestamps|>"],
        "prev_sot_token_id": ids["<|startofprev|>"],
        "return_timestamps": False,
    }
    names = {"alignment_heads": "alignment_heads", "suppress_tokens": "suppress_ids"}
    names["begin_suppress_tokens"] = "suppress_ids_begin"
    config |= {ours: given[theirs] for ours, theirs in names.items() if theirs in given}
    if is_multilingual:
        last = ids["<|translate|>"]
        languages = {token: ids[token] for token in ids if start < ids[token] < last}
        config["lang_to_id"] = dict(sorted(languages.items(), key=lambda item: item[1]))
        config["task_to_id"] = {name: ids[f"<|{name}|>"] for name in ("transcribe", "translate")}
    return config


def _is_multilingual(tokenizer: Tokenizer) -> bool:
    """Tell whether the vocabulary is the one that has a token more than GPT-2's."""
    return tokenizer.get_vocab()["<|endoftext|>"] > 50256


def _tokenizer_config(tokenizer: Tokenizer) -> dict[str, Any]:
    special = {
        number: token.content
        for number, token in tokenizer.get_added_tokens_decoder().items()
        if token.special and token.content != "<|endoftext|>"
    }
    end = dict.fromkeys(("bos_token", "eos_token", "pad_token", "unk_token"), "<|endoftext|>")
    return {
        "tokenizer_class": "WhisperTokenizer",
        "processor_class": "WhisperProcessor",
        **end,
        "additional_special_tokens": [special[number] for number in sorted(special)],
        "add_prefix_space": False,
        "errors": "replace",
        "model_max_length": 1024,
    }


def _preprocessor_config(mel_bins: int) -> dict[str, Any]:
    return {
        "feature_extractor_type": "WhisperFeatureExtractor",
        "processor_class": "WhisperProcessor",
        "chunk_length": 30,
        "dither": 0.0,
        "feature_size": mel_bins,
        "hop_length": 160,
        "n_fft": 400,
        "n_samples": 480000,
        "nb_max_frames": 3000,
        "padding_side": "right",
        "padding_value": 0.0,
        "return_attention_mask": False,
        "sampling_rate": 16000,
    }


def _model_file(sources: Sequence[Path], scratch: Path) -> Path:
    """Return model.bin, which is put together in scratch where the sources have its parts."""
    if (whole := sources[0] / "model.bin").exists():
        return whole
    parts = [file for source in sources for file in source.glob("model.bin.part*")]
    parts.sort(key=lambda file: int(file.name.rpartition("part")[2] or 0))
    if not parts:
        raise ConversionError(f"{sources[0]} has no model.bin and no model.bin.part1")
    whole = scratch / "model.bin"
    with whole.open("wb") as out:
        for part in parts:
            with part.open("rb") as file:
                shutil.copyfileobj(file, out)
    return whole


def convert(sources: Sequence[Path], target: Path) -> None:
    """Convert the model of some folders. Raises ConversionError, or OSError as files do."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".converting-") as name:
        scratch, made = Path(name), Path(name) / "made"
        made.mkdir()
        given = json.loads((sources[0] / "config.json").read_text())
        tokenizer = with_timestamps(Tokenizer.from_file(str(sources[0] / "tokenizer.json")))
        with _model_file(sources, scratch).open("rb") as file:
            variables = read_model(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        weights = weights_of(variables)
        config = model_config(variables, weights)
        generation = generation_config(tokenizer, given)
        for key in ("bos_token_id", "decoder_start_token_id", "eos_token_id", "pad_token_id"):
            config[key] = generation[key]
        save_file(weights, made / "model.safetensors", metadata={"format": "pt"})
        (made / "model.safetensors").chmod(0o644)  # as the other files; else it is the owner's
        tokenizer.save(str(made / "tokenizer.json"))
        for file_name, content in (
            ("config.json", config),
            ("generation_config.json", generation),
            ("tokenizer_config.json", _tokenizer_config(tokenizer)),
            ("preprocessor_config.json", _preprocessor_config(config["num_mel_bins"])),
        ):
            (made / file_name).write_text(json.dumps(content, indent=2) + "\n")
        made.rename(target)


def main() -> int:
    """Run the command line; return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("sources", type=Path, nargs="+", metavar="SOURCE")
    parser.add_argument("target", type=Path, metavar="TARGET")
    given = parser.parse_args()
    if given.target.exists():
        parser.error(f"{given.target} exists")
    try:
        convert(given.sources, given.target)
    except (ConversionError, OSError) as error:
        print(f"convert_whisper: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
