"""The peers: in which environment each runs, by what, on which files and in which precision."""

from dataclasses import dataclass
from typing import Literal

Precision = Literal["fp32", "bf16", "int8"]
PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16", "int8")
Files = Literal["huggingface", "ctranslate2", "f16", "q8_0"]

ENVIRONMENTS: dict[str, tuple[str, ...]] = {
    "faster-whisper": ("faster-whisper==1.2.1", "ctranslate2==4.8.5"),
    "whispercpp": ("pywhispercpp==1.5.1",),
    "transformers-pipeline": (
        "transformers==5.24.0", "torch==2.13.0", "numpy==2.4.6", "soundfile==0.14.0",
    ),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class SpeechPeer:
    """A peer. runtime: a function of inside/transcriber.py. files: what it reads the model from.

    batches: whether the caller chooses how many windows it runs together.
    """

    name: str
    environment: str
    runtime: str
    precision: Precision
    files: Files
    batches: bool = False


# Long recordings as transformers' own `generate` takes them: what word error rates are held to.
REFERENCE = SpeechPeer(
    "transformers-long", "transformers-pipeline", "transformers_long", "fp32", "huggingface"
)


def _ctranslate2(kind: str, precision: Precision) -> SpeechPeer:
    name, runtime = f"faster-whisper{kind}-{precision}", f"faster_whisper{kind.replace('-', '_')}"
    is_batched = kind == "-batched"
    return SpeechPeer(name, "faster-whisper", runtime, precision, "ctranslate2", is_batched)


def _ggml(kind: str, precision: Precision, files: Files) -> SpeechPeer:
    name, runtime = f"whisper.cpp{kind}-{files}", f"whisper_cpp{kind.replace('-', '_')}"
    return SpeechPeer(name, "whispercpp", runtime, precision, files)


def _transformers(precision: Precision) -> SpeechPeer:
    name, environment = f"transformers-{precision}", "transformers-pipeline"
    return SpeechPeer(name, environment, "transformers", precision, "huggingface", True)


PEERS = (
    _ctranslate2("", "fp32"),
    _ctranslate2("-workers", "fp32"),
    _ctranslate2("-batched", "fp32"),
    _ctranslate2("", "int8"),
    _ctranslate2("-workers", "int8"),
    _ctranslate2("-batched", "int8"),
    # whisper.cpp ends itself on files of float32 weights: it has no fp32.
    _ggml("", "bf16", "f16"),
    _ggml("-contexts", "bf16", "f16"),
    _ggml("", "int8", "q8_0"),
    _ggml("-contexts", "int8", "q8_0"),
    _transformers("fp32"),
    _transformers("bf16"),
)
