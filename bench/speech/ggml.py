"""Write a Whisper model in Hugging Face layout as a file of whisper.cpp (ggml).

    python -m bench.speech.ggml FOLDER FILE [--type f16|q8_0]

The layout, all in little-endian 32-bit words: a magic number, eleven settings, the mel filters, the
tokens' bytes, then each tensor with its dimensions, innermost first, its name and its type.
"""

import argparse
import json
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from gguf import GGMLQuantizationType, quants
from safetensors import safe_open
from tokenizers import Tokenizer
from transformers.audio_utils import mel_filter_bank

Array = npt.NDArray[Any]

MAGIC = 0x67676D6C
# How the file's header and its tensors name the types.
FILE_TYPES = {"f16": 1, "q8_0": 2007}  # 2: the version of the quantization
TENSOR_TYPES = {"f32": 0, "f16": 1, "q8_0": 8}
_SETTINGS = (
    "vocab_size",
    "max_source_positions",
    "d_model",
    "encoder_attention_heads",
    "encoder_layers",
    "max_target_positions",
    "d_model",
    "decoder_attention_heads",
    "decoder_layers",
    "num_mel_bins",
)
_NAMES = (
    ("model.", ""),
    (".layers.", ".blocks."),
    (".fc1.", ".mlp.0."),
    (".fc2.", ".mlp.2."),
    (".final_layer_norm.", ".mlp_ln."),
    (".self_attn_layer_norm.", ".attn_ln."),
    (".encoder_attn_layer_norm.", ".cross_attn_ln."),
    (".self_attn.", ".attn."),
    (".encoder_attn.", ".cross_attn."),
    (".q_proj.", ".query."),
    (".k_proj.", ".key."),
    (".v_proj.", ".value."),
    (".out_proj.", ".out."),
    ("encoder.layer_norm.", "encoder.ln_post."),
    ("decoder.layer_norm.", "decoder.ln."),
    (".embed_tokens.", ".token_embedding."),
    (".embed_positions.weight", ".positional_embedding"),
)


def tensor_name(name: str) -> str:
    """Return whisper.cpp's name of a tensor of transformers."""
    for ours, theirs in _NAMES:
        name = name.replace(ours, theirs, 1)
    return name


def tensor_type(name: str, dimensions: int, file_type: str) -> str:
    """Return in which type whisper.cpp has a tensor in a file of some type."""
    if dimensions == 1 or name.endswith(("positional_embedding", "conv1.bias", "conv2.bias")):
        return "f32"
    if dimensions == 3 and file_type == "q8_0":  # convolutions are never quantized
        return "f16"
    return file_type


def token_bytes(tokenizer: Tokenizer) -> list[bytes]:
    """Return the bytes of the tokens below the special ones."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in shown]
    characters = {chr(byte): byte for byte in shown}  # GPT-2's: a character for each byte
    characters |= {chr(256 + number): byte for number, byte in enumerate(hidden)}
    vocab = tokenizer.get_vocab()
    words = {number: word for word, number in vocab.items()}
    return [
        bytes(characters[character] for character in words.get(number, ""))
        for number in range(vocab["<|endoftext|>"])
    ]


def _tensor(name: str, array: Array, file_type: str) -> Iterator[bytes]:
    if name in ("encoder.conv1.bias", "encoder.conv2.bias"):
        array = array.reshape(-1, 1)
    kind = tensor_type(name, array.ndim, file_type)
    shape, array = array.shape[::-1], array.astype(np.float32)
    encoded = name.encode()
    yield struct.pack("<3i", len(shape), len(encoded), TENSOR_TYPES[kind])
    yield struct.pack(f"<{len(shape)}i", *shape) + encoded
    if kind == "q8_0":
        array = quants.quantize(array, GGMLQuantizationType.Q8_0)
    yield (array.astype(np.float16) if kind == "f16" else array).tobytes()


def write(folder: Path, target: Path, file_type: str) -> None:
    """Write a model's file."""
    config = json.loads((folder / "config.json").read_text())
    mels = config["num_mel_bins"]
    tokens = token_bytes(Tokenizer.from_file(str(folder / "tokenizer.json")))
    filters = mel_filter_bank(201, mels, 0.0, 8000.0, 16000, norm="slaney", mel_scale="slaney")
    partial = target.with_suffix(".partial")
    with partial.open("wb") as out:
        settings = [config[name] for name in _SETTINGS]
        out.write(struct.pack("<I11i", MAGIC, *settings, FILE_TYPES[file_type]))
        out.write(struct.pack("<2i", mels, 201) + filters.T.astype(np.float32).tobytes())
        out.write(struct.pack("<i", len(tokens)))
        for token in tokens:
            out.write(struct.pack("<i", len(token)) + token)
        with safe_open(folder / "model.safetensors", "numpy") as weights:
            for name in weights.keys():  # noqa: SIM118
                out.writelines(_tensor(tensor_name(name), weights.get_tensor(name), file_type))
    partial.rename(target)


def main() -> int:
    """Run the command line; return the exit status."""
    parser = argparse.ArgumentParser(prog="bench.speech.ggml")
    parser.add_argument("folder", type=Path)
    parser.add_argument("target", type=Path, metavar="FILE")
    parser.add_argument("--type", choices=tuple(FILE_TYPES), default="f16")
    given = parser.parse_args()
    write(given.folder, given.target, given.type)
    return 0


if __name__ == "__main__":
    sys.exit(main())
