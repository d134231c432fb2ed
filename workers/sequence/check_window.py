"""Check what requests bring for a model that transcribes."""

from dataclasses import dataclass
from typing import NoReturn

from headrace.protocol.speech import AudioInput
from headrace.protocol.to_worker import Generate
from headrace.workers.errors import RejectedByEngine

_FLOAT_BYTES = 4


@dataclass(frozen=True, slots=True)
class WindowChecks:
    """Limits of a model's windows.

    features: numbers of a window. positions: vectors that the encoder makes of them.
    """

    vocab_size: int
    features: int
    positions: int


def check_window(request: Generate, checks: WindowChecks | None) -> None:
    """Raise RejectedByEngine, naming the field, unless a request brings what its model takes.

    checks: None: the model only reads.
    """
    audio = request.audio
    if checks is None:
        if audio is not None:
            _reject("audio: this model does not transcribe")
        return
    if audio is None:
        _reject("audio is missing: this model transcribes")
    if len(audio.features) != checks.features * _FLOAT_BYTES:
        _reject(f"audio must have {checks.features} numbers of 32 bits")
    if not audio.digest:
        _reject("audio has no digest")
    if request.grammar is not None or request.sampling.thinking_budget is not None:
        _reject("grammar: this model does not support it")
    if request.sampling.prompt_logprobs is not None:
        _reject("prompt_logprobs: this model does not support it")
    _check_ids(audio, checks)
    _check_positions(audio, checks, len(request.prompt_token_ids))


def _check_ids(audio: AudioInput, checks: WindowChecks) -> None:
    rule = audio.timestamps
    ids = [*audio.suppressed_ids, *audio.first_suppressed_ids]
    ids += [] if audio.no_speech_id is None else [audio.no_speech_id]
    ids += [] if rule is None else [rule.first_id]
    if not all(0 <= token_id < checks.vocab_size for token_id in ids):
        _reject(f"audio has a token id that is not from 0 to {checks.vocab_size - 1}")
    if rule is not None and not (rule.first_id and rule.max_initial >= 0):
        _reject("audio: timestamps must have a first token, and a first time of 0 or more")


def _check_positions(audio: AudioInput, checks: WindowChecks, num_prompt: int) -> None:
    if audio.no_speech_id is not None and not 0 <= audio.no_speech_position < num_prompt:
        _reject("audio: no_speech_position must be a position of the prompt")
    alignment = audio.alignment
    if alignment is not None and not 1 <= alignment.first < num_prompt:
        _reject("audio: alignment.first must be a position of the prompt after its first")
    if alignment is not None and not 1 <= alignment.frames <= checks.positions:
        _reject(f"audio: alignment.frames must be from 1 to {checks.positions}")


def _reject(reason: str) -> NoReturn:
    raise RejectedByEngine(reason, retry_elsewhere=False)
