"""The peers: in which environment each runs, by what, and in which precision."""

from dataclasses import dataclass
from typing import Literal

Precision = Literal["fp32", "bf16", "int8"]
PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16", "int8")

# torch is pinned everywhere: a looser requirement brings gigabytes for GPUs along.
_TORCH = ("torch==2.13.0", "numpy==2.4.6", "setuptools<85")
ENVIRONMENTS: dict[str, tuple[str, ...]] = {
    "sentence-transformers": (
        "sentence-transformers==6.2.0", "transformers==5.24.0", "tokenizers==0.23.3", *_TORCH,
    ),
    # Optimum's exporter to ONNX takes no newer transformers.
    "onnx": (
        "sentence-transformers==5.7.0", "transformers==4.57.6", "optimum==2.1.0",
        "optimum-onnx[onnxruntime]==0.1.0", "onnx==1.23.2", "onnxruntime==1.32.0", *_TORCH,
    ),
    "openvino": (
        "sentence-transformers==6.2.0", "transformers==5.5.4", "optimum==2.3.0",
        "optimum-intel[openvino]==2.2.0", "openvino==2026.4.1", "nncf==3.4.0", *_TORCH,
    ),
    "fastembed": ("fastembed==0.9.1", "onnxruntime==1.32.0", "numpy==2.4.6"),
    "infinity": (
        "infinity-emb[server,torch]==0.0.78", "sentence-transformers==3.4.1",
        "transformers==4.57.6", "numpy==1.26.4", "torch==2.13.0",
    ),
}  # fmt: skip

# What requirements bring along and must not stay: the index's torchvision is built for torch with
# CUDA, and with another torch transformers cannot import it.
REMOVED: dict[str, tuple[str, ...]] = {"openvino": ("torchvision",)}


@dataclass(frozen=True, slots=True)
class Peer:
    """A peer. runtime: a function of inside/encoder.py, or "" for a server over HTTP.

    environment: "" for one that is given as a program (llama.cpp's server).
    """

    name: str
    environment: str
    runtime: str
    precision: Precision


REFERENCE = "sentence-transformers-fp32"
PEERS = (
    Peer(REFERENCE, "sentence-transformers", "torch", "fp32"),
    Peer("sentence-transformers-bf16", "sentence-transformers", "torch", "bf16"),
    Peer("onnx-fp32", "onnx", "onnx", "fp32"),
    Peer("onnx-int8", "onnx", "onnx", "int8"),
    Peer("openvino-fp32", "openvino", "openvino", "fp32"),
    Peer("openvino-bf16", "openvino", "openvino", "bf16"),
    Peer("openvino-int8", "openvino", "openvino", "int8"),
    Peer("fastembed-fp32", "fastembed", "fastembed", "fp32"),
    Peer("fastembed-int8", "fastembed", "fastembed", "int8"),
    Peer("infinity-fp32", "infinity", "", "fp32"),
    Peer("infinity-bf16", "infinity", "", "bf16"),
)
