"""Read how a model that transcribes is prompted and what rules its outputs, from its files.

Files come from several converters and years. Ids are found by the names of tokens; where a
tokenizer lacks some (CTranslate2's have no timestamps), by the order in which Whisper's vocabulary
has them: start, languages, translate, transcribe, startoflm, startofprev, nospeech, notimestamps,
0.00 and so on.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from headrace.protocol.common.pooling.json_files import is_count, read_object
from headrace.protocol.common.speech.languages import LANGUAGES
from headrace.protocol.common.speech.speech_info import SpeechInfo, WhisperTokens

_START = "<|startoftranscript|>"
# The same token under the names of different years.
_NO_SPEECH = ("<|nospeech|>", "<|nocaptions|>")
# Sizes of the vocabularies that know English alone end here.
_LARGEST_ENGLISH = 51_864
_WINDOW_S: Final = 30.0
_FRAMES_PER_STEP = 2  # the encoder halves the frames; each of its vectors is a step of timestamps


class SpeechFilesError(ValueError):
    """The files of a model that transcribes cannot be used; the text is one line for operators."""


def read_speech_setup(folder: Path, added_tokens: Mapping[int, str]) -> SpeechInfo:
    """Return how a model transcribes.

    folder: with config.json, and perhaps generation_config.json and preprocessor_config.json.
    added_tokens: of its tokenizer, by id.

    Raises SpeechFilesError, or PoolingFilesError for a file that is not JSON.
    """
    config = read_object(folder / "config.json")
    generation = read_object(folder / "generation_config.json")
    features = read_object(folder / "preprocessor_config.json")
    # Neither file's `forced_decoder_ids` counts: language and task decide.
    tokens = _tokens(folder, config, generation, {text: i for i, text in added_tokens.items()})
    source = _count(folder, config, "max_source_positions")
    seconds = features.get("chunk_length", _WINDOW_S)
    window_s = float(seconds) if isinstance(seconds, int | float) and seconds > 0 else _WINDOW_S
    if source * tokens.step_s < window_s:
        raise SpeechFilesError(f"{folder}: its max_source_positions are fewer than its windows")
    initial = generation.get("max_initial_timestamp_index")
    size = _count(folder, config, "vocab_size")
    return SpeechInfo(
        tokens=tokens,
        mel_bins=_count(folder, config, "num_mel_bins"),
        frames=source * _FRAMES_PER_STEP,
        window_s=window_s,
        positions=_count(folder, config, "max_target_positions"),
        suppressed_ids=_suppressed(config, generation, tokens, size),
        first_suppressed_ids=_first_suppressed(config, generation, tokens, size),
        max_initial_timestamp=initial if is_count(initial) else 50,
    )


def _tokens(
    folder: Path,
    config: Mapping[str, Any],
    generation: Mapping[str, Any],
    ids: Mapping[str, int],
) -> WhisperTokens:
    start = ids.get(_START, config.get("decoder_start_token_id"))
    if not is_count(start):
        raise SpeechFilesError(f"{folder}: its tokenizer has no token {_START}")
    assert isinstance(start, int)
    languages = {code: ids[f"<|{code}|>"] for code in LANGUAGES if f"<|{code}|>" in ids}
    # In the order of the vocabulary all languages stand between the start and the tasks.
    after = start + 1 + (len(languages) or len(LANGUAGES) - 1)
    is_multilingual = _is_multilingual(config, generation)
    no_speech = next((ids[name] for name in _NO_SPEECH if name in ids), after + 4)
    no_timestamps = ids.get("<|notimestamps|>", generation.get("no_timestamps_token_id"))
    if not is_count(no_timestamps):
        no_timestamps = after + 5
    assert isinstance(no_timestamps, int)
    return WhisperTokens(
        start=start,
        previous=ids.get("<|startofprev|>", after + 3),
        languages=languages if is_multilingual else {},
        transcribe=ids.get("<|transcribe|>", after + 1) if is_multilingual else None,
        translate=ids.get("<|translate|>", after) if is_multilingual else None,
        no_speech=no_speech,
        no_timestamps=no_timestamps,
        first_timestamp=ids.get("<|0.00|>", no_timestamps + 1),
        end=ids.get("<|endoftext|>", start - 1),
    )


def _is_multilingual(config: Mapping[str, Any], generation: Mapping[str, Any]) -> bool:
    said = generation.get("is_multilingual")
    size = config.get("vocab_size")
    return said if isinstance(said, bool) else isinstance(size, int) and size > _LARGEST_ENGLISH


def _suppressed(
    config: Mapping[str, Any], generation: Mapping[str, Any], tokens: WhisperTokens, size: int
) -> tuple[int, ...]:
    """Return the tokens that are no text: those of the files, and those of prompts in any case."""
    task = tokens.transcribe, tokens.translate
    prompts = {tokens.start, tokens.previous, tokens.no_timestamps, tokens.no_speech, *task}
    given = _ids(config, generation, "suppress_tokens", size)
    return tuple(sorted(given | {each for each in prompts if each is not None}))


def _first_suppressed(
    config: Mapping[str, Any], generation: Mapping[str, Any], tokens: WhisperTokens, size: int
) -> tuple[int, ...]:
    given = _ids(config, generation, "begin_suppress_tokens", size)
    return tuple(sorted(given or {tokens.end}))


def _ids(
    config: Mapping[str, Any], generation: Mapping[str, Any], name: str, size: int
) -> set[int]:
    """Return the token ids in one of the files; older ones have them in config.json."""
    found = generation.get(name, config.get(name))
    ids = found if isinstance(found, list) else []
    return {each for each in ids if isinstance(each, int) and 0 <= each < size}


def _count(folder: Path, config: Mapping[str, Any], name: str) -> int:
    value = config.get(name)
    if not is_count(value):
        raise SpeechFilesError(f"{folder}: its config.json gives no {name}")
    assert isinstance(value, int)
    return value
