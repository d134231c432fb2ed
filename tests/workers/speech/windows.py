"""Windows of noise, requests for them, and engines that run these."""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from transformers import WhisperForConditionalGeneration

from headrace.protocol.config import EngineConfig
from headrace.protocol.sampling import SamplingParams
from headrace.protocol.speech import AudioInput
from headrace.protocol.to_frontend import Output
from headrace.protocol.to_worker import Generate
from headrace.workers.engine.engine import Engine
from headrace.workers.speech.build import build_speech_engine
from tests.workers.speech.conftest import MELS, POSITIONS

START = (2, 7, 9)


def features_of(seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn((MELS, 2 * POSITIONS), generator=generator)


def window(seed: int, **fields: Any) -> AudioInput:
    data = features_of(seed).numpy().tobytes()
    return AudioInput(data, hashlib.sha256(data).digest(), **fields)


def request(
    name: str,
    audio: AudioInput | None,
    prompt: Iterable[int] = START,
    output: tuple[int, ...] = (),
    **sampling: Any,
) -> Generate:
    params = {"seed": 1, "max_tokens": 20, "temperature": 0.0} | sampling
    return Generate(name, tuple(prompt), SamplingParams(**params), output, audio=audio)


def engine_of(folder: Path, **options: Any) -> Engine:
    config = EngineConfig(**({"dtype": "float32", "max_num_seqs": 8} | options))
    return build_speech_engine(folder, config, 1, lambda line: None)


def run_all(engine: Engine, requests: Iterable[Generate] = ()) -> dict[str, list[Output]]:
    """Run requests to their ends; return their outputs by name."""
    for each in requests:
        engine.add(each)
    found: dict[str, list[Output]] = {}
    while engine.has_work:
        for output in engine.step():
            found.setdefault(output.request_id, []).append(output)
    return found


def load_reference(folder: Path, **options: Any) -> Any:
    """Return transformers' own model, which computes what is expected."""
    model: Any = WhisperForConditionalGeneration.from_pretrained(folder, **options)
    model.eval()
    return model


def tokens(outputs: Iterable[Output]) -> tuple[int, ...]:
    return tuple(token for output in outputs for token in output.token_ids)
