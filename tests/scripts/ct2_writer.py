"""Write Whisper models as CTranslate2 does: a second reading of its format, for tests."""

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

Array = npt.NDArray[Any]

TYPES = {"float32": 0, "int8": 1, "int16": 2, "int32": 3, "float16": 4}
LAYER_NAMES = {
    "self_attn_layer_norm": "self_attention/layer_norm",
    "encoder_attn_layer_norm": "attention/layer_norm",
    "final_layer_norm": "ffn/layer_norm",
    "fc1": "ffn/linear_0",
    "fc2": "ffn/linear_1",
    "self_attn.out_proj": "self_attention/linear_1",
    "encoder_attn.q_proj": "attention/linear_0",
    "encoder_attn.out_proj": "attention/linear_2",
}
OTHER_NAMES = {"embed_tokens": "embeddings", "embed_positions": "position_encodings"}


def ct2_variables(weights: Mapping[str, Array], heads: int) -> dict[str, Array]:
    """Return the variables of a model of transformers, under CTranslate2's names."""
    found = dict[str, Array]()
    for half in ("encoder", "decoder"):
        found[f"{half}/num_heads"] = np.array(heads, np.int16)
    found["decoder/activation"] = np.array(3, np.int8)
    for name, array in weights.items():
        _, half, *middle, kind = name.split(".")
        if middle[0] != "layers":
            place = OTHER_NAMES.get(middle[0], middle[0])
            if middle[0] == "embed_positions":
                kind = "encodings"
        elif (part := ".".join(middle[2:])) in LAYER_NAMES:
            place = f"layer_{middle[1]}/{LAYER_NAMES[part]}"
        else:
            continue  # below
        if "layer_norm" in place:
            kind = {"weight": "gamma", "bias": "beta"}[kind]
        found[f"{half}/{place}/{kind}"] = array
    for name in weights:
        if name.endswith("k_proj.weight"):
            _fuse(weights, name.removesuffix("k_proj.weight"), found)
    return found


def _fuse(weights: Mapping[str, Array], prefix: str, found: dict[str, Array]) -> None:
    """Put the projections that CTranslate2 has as one together. Keys have no bias: zeros."""
    _, half, _, number, attention, _ = prefix.split(".")
    is_self = attention == "self_attn"
    place = f"{half}/layer_{number}/" + (
        "self_attention/linear_0" if is_self else "attention/linear_1"
    )
    parts = ("q_proj", "k_proj", "v_proj")[0 if is_self else 1 :]
    none = np.zeros_like(weights[f"{prefix}v_proj.bias"])
    found[f"{place}/weight"] = np.concatenate([weights[f"{prefix}{part}.weight"] for part in parts])
    found[f"{place}/bias"] = np.concatenate(
        [weights.get(f"{prefix}{part}.bias", none) for part in parts]
    )


def model_bin(
    variables: Mapping[str, Array],
    name: str = "WhisperSpec",
    version: int = 6,
    bfloat16: bool = False,
) -> bytes:
    """Return a model.bin. With bfloat16, float32's upper halves are what is written."""

    def text(value: str) -> bytes:
        return struct.pack("<H", len(value) + 1) + value.encode() + b"\0"

    out = [struct.pack("<I", version), text(name), struct.pack("<II", 3, len(variables))]
    for key, array in sorted(variables.items()):
        kind = TYPES[array.dtype.name]
        if bfloat16 and kind == 0:
            kind, array = 5, (array.view(np.uint32) >> 16).astype(np.uint16)
        out += [text(key), struct.pack(f"<B{array.ndim}I", array.ndim, *array.shape)]
        out += [struct.pack("<BI", kind, array.nbytes), array.tobytes()]
    shared = [name for name in variables if name.startswith("decoder/embeddings/")]
    out.append(struct.pack("<I", len(shared)))
    for original in shared:
        out += [text(original.replace("embeddings", "projection")), text(original)]
    return b"".join(out)


def tokenizer_json(is_multilingual: bool) -> Tokenizer:
    """A tokenizer with the ids of Whisper's special tokens, whose words are numbers."""
    end = 50257 if is_multilingual else 50256
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {letter: number for number, letter in enumerate(letters)}
    vocab |= {f"#{number}": number for number in range(len(vocab), end)}
    tokenizer = Tokenizer(models.BPE(vocab, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    names = ["endoftext", "startoftranscript", "en", "de", "translate", "transcribe"]
    names += ["startoflm", "startofprev", "nospeech", "notimestamps"]
    tokenizer.add_special_tokens([AddedToken(f"<|{name}|>", normalized=False) for name in names])
    return tokenizer


def write_folder(folder: Path, data: bytes, is_multilingual: bool) -> Path:
    """Write a model's folder as faster-whisper reads it."""
    folder.mkdir()
    (folder / "model.bin").write_bytes(data)
    tokenizer_json(is_multilingual).save(str(folder / "tokenizer.json"))
    config = {
        "alignment_heads": [[0, 1]],
        "lang_ids": [50259, 50260],
        "suppress_ids": [1, 2, 7],
        "suppress_ids_begin": [220, 50257],
    }
    (folder / "config.json").write_text(json.dumps(config))
    return folder
