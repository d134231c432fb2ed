"""Embed texts with one library: a line of JSON in, a line of JSON out.

    python encoder.py RUNTIME FOLDER PRECISION THREADS MAX_TOKENS

Reads {"calls": [[text, …], …], "batch": 32, "keep": false}; answers with the seconds that the calls
took, one after the other, the sum of all the vectors' values, and with "keep" the vectors (float32,
base64). The first line tells that the model is loaded. What libraries print goes to stderr.
"""

import base64
import importlib
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

Encode = Callable[[list[str], int], Any]  # texts and batch size to an array


@dataclass(frozen=True)
class Model:
    """What to load. folder: the exported files' for those that read such, else the model's."""

    folder: Path
    precision: str
    threads: int
    max_tokens: int


def torch(model: Model) -> Encode:
    """Load sentence-transformers with torch."""
    library = importlib.import_module("torch")
    library.set_num_threads(model.threads)
    dtype = {"fp32": library.float32, "bf16": library.bfloat16}[model.precision]
    return _sentence_transformers(model, "torch", {"dtype": dtype})


def onnx(model: Model) -> Encode:
    """Load sentence-transformers with ONNX Runtime."""
    options = importlib.import_module("onnxruntime").SessionOptions()
    options.intra_op_num_threads = model.threads
    given = {"session_options": options, "provider": "CPUExecutionProvider"}
    return _sentence_transformers(model, "onnx", {**given, "file_name": _onnx_file(model)})


def openvino(model: Model) -> Encode:
    """Load sentence-transformers with OpenVINO, which alone would take bf16 where it is fast."""
    config = {
        "INFERENCE_NUM_THREADS": model.threads,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "bf16" if model.precision == "bf16" else "f32",
    }
    suffix = "_int8" if model.precision == "int8" else ""
    file = f"openvino/openvino_model{suffix}.xml"
    return _sentence_transformers(model, "openvino", {"ov_config": config, "file_name": file})


def fastembed(model: Model) -> Encode:
    """Load fastembed with the ONNX file of this model."""
    library = importlib.import_module("fastembed")
    description = importlib.import_module("fastembed.common.model_description")
    pooling = json.loads((model.folder / "1_Pooling/config.json").read_text())
    is_mean = pooling.get("pooling_mode_mean_tokens") or pooling.get("pooling_mode") == "mean"
    config = json.loads((model.folder / "config.json").read_text())
    library.TextEmbedding.add_custom_model(
        model="measured",
        pooling=description.PoolingType.MEAN if is_mean else description.PoolingType.CLS,
        normalization=True,
        sources=description.ModelSource(hf="measured"),
        dim=config["hidden_size"],
        model_file=_onnx_file(model),
    )
    loaded = library.TextEmbedding(
        "measured", specific_model_path=str(model.folder), threads=model.threads
    )
    # Of its own it goes by a length of training in the tokenizer's files (128 for MiniLM).
    loaded.model.tokenizer.enable_truncation(max_length=model.max_tokens)
    return lambda texts, batch: np.stack(list(loaded.embed(texts, batch_size=batch)))


def _onnx_file(model: Model) -> str:
    return "onnx/model_int8.onnx" if model.precision == "int8" else "onnx/model.onnx"


def _sentence_transformers(model: Model, backend: str, given: dict[str, object]) -> Encode:
    library = importlib.import_module("sentence_transformers")
    loaded = library.SentenceTransformer(
        str(model.folder), device="cpu", backend=backend, model_kwargs=given
    )
    loaded.max_seq_length = model.max_tokens
    return lambda texts, batch: loaded.encode(texts, batch_size=batch, show_progress_bar=False)


RUNTIMES: dict[str, Callable[[Model], Encode]] = {
    function.__name__: function for function in (torch, onnx, openvino, fastembed)
}


def answer(encode: Encode, request: dict[str, Any]) -> dict[str, object]:
    """Run the calls of a request."""
    started = time.perf_counter()
    arrays = [np.asarray(encode(texts, request["batch"]), np.float32) for texts in request["calls"]]
    seconds = time.perf_counter() - started
    vectors = np.concatenate(arrays)
    result = {"seconds": seconds, "checksum": float(vectors.sum(dtype=np.float64))}
    if not request.get("keep"):
        return dict(result)
    return result | {"vectors": base64.b64encode(vectors.tobytes()).decode()}


def main() -> None:
    """Load the model, then answer each line."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    name, folder, precision, threads, max_tokens = sys.argv[1:]
    encode = RUNTIMES[name](Model(Path(folder), precision, int(threads), int(max_tokens)))
    print(json.dumps({"ready": True}), file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(answer(encode, json.loads(line))), file=answers, flush=True)


if __name__ == "__main__":
    main()
