"""Check that our code decodes a file's formats as the gguf package does."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from headrace.workers.prepare.gguf_header import GGUFError, GGUFHeader, GGUFTensor
from headrace.workers.quantized.formats import BLOCK_FORMATS, FLOAT_FORMATS
from headrace.workers.quantized.tensor import QuantizedTensor, row_bytes

_ROWS = 4  # that are compared of the first matrix in each format
_TOLERANCE = 1e-6


def check_decoding(files: Sequence[Path], headers: Sequence[GGUFHeader]) -> None:
    """Compare some rows in each format of a file; raises GGUFError if one differs."""
    seen = set()
    for file, header in zip(files, headers, strict=True):
        for tensor in header.tensors:
            known = tensor.type in BLOCK_FORMATS or tensor.type in FLOAT_FORMATS
            if not known or tensor.type in seen or len(tensor.shape) < 2:
                continue
            seen.add(tensor.type)
            _compare(file, tensor)


def _compare(file: Path, tensor: GGUFTensor) -> None:
    from gguf import GGMLQuantizationType
    from gguf.quants import dequantize

    inputs = tensor.shape[-1]
    count = min(_ROWS, tensor.shape[-2])
    size = row_bytes(tensor.type, inputs)
    with file.open("rb") as stream:
        stream.seek(tensor.offset)
        data = np.frombuffer(stream.read(count * size), np.uint8).reshape(count, size)
    ours = QuantizedTensor(tensor.type, (count, inputs), data).dequantize().numpy()
    theirs = dequantize(data, GGMLQuantizationType[tensor.type.upper()])
    both_nan = np.isnan(ours) & np.isnan(theirs)
    if not (np.isclose(ours, theirs, rtol=_TOLERANCE, atol=_TOLERANCE) | both_nan).all():
        raise GGUFError(f"tensor {tensor.name!r}: numbers in {tensor.type} are read wrongly")
