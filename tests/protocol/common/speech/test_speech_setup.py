"""The folder of a model that transcribes says how it is prompted, in the forms of all years."""

import json
from pathlib import Path
from typing import Any

import pytest
from transformers.models.whisper.tokenization_whisper import LANGUAGES as AUTHORS_LANGUAGES

from headrace.launcher.models.model_folder import ModelError
from headrace.launcher.models.text_folder import TextOverrides, write_text_folder
from headrace.protocol.common.speech.languages import LANGUAGES, UNSPACED, language_code
from headrace.protocol.common.speech.speech_info import SpeechInfo
from headrace.protocol.common.speech.speech_setup import SpeechFilesError, read_speech_setup

CONFIG = {
    "model_type": "whisper",
    "vocab_size": 51865,
    "num_mel_bins": 80,
    "max_source_positions": 1500,
    "max_target_positions": 448,
    "decoder_start_token_id": 50258,
}
TASKS = ("translate", "transcribe", "startoflm", "startofprev", "nospeech", "notimestamps")


def tokens(start: int, languages: int, *names: str) -> dict[int, str]:
    """The special tokens in Whisper's order, from the end of texts on."""
    words = ["endoftext", "startoftranscript", *list(LANGUAGES)[:languages], *(names or TASKS)]
    return {start - 1 + number: f"<|{word}|>" for number, word in enumerate(words)}


def read(folder: Path, added: dict[int, str], config: Any = None, **generation: Any) -> SpeechInfo:
    (folder / "config.json").write_text(json.dumps(CONFIG | (config or {})))
    if generation:
        (folder / "generation_config.json").write_text(json.dumps(generation))
    return read_speech_setup(folder, added)


def test_languages_are_those_of_the_authors() -> None:
    assert LANGUAGES == AUTHORS_LANGUAGES
    assert list(LANGUAGES) == list(AUTHORS_LANGUAGES)  # in the order of their tokens
    assert LANGUAGES.keys() > UNSPACED


@pytest.mark.parametrize(
    ("word", "code"),
    [
        ("en", "en"),
        ("German", "de"),
        (" haitian creole ", "ht"),
        ("Castilian", "es"),
        ("jv", "jw"),
        ("xx", None),
        ("", None),
    ],
)
def test_words_for_a_language(word: str, code: str | None) -> None:
    assert language_code(word) == code


def test_multilingual(tmp_path: Path) -> None:
    generation = {
        "suppress_tokens": [1, 2, 50258, 99_999, -1],
        "begin_suppress_tokens": [220, 50257],
        "max_initial_timestamp_index": 40,
        "forced_decoder_ids": [[1, 50260], [2, 50358]],
    }
    info = read(tmp_path, tokens(50258, 99), **generation)
    assert info.is_multilingual
    known = info.tokens
    assert (known.end, known.start, known.languages["en"], known.languages["su"]) == (
        *(50257, 50258),
        *(50259, 50357),
    )
    assert (known.translate, known.transcribe, known.previous) == (50358, 50359, 50361)
    assert (known.no_speech, known.no_timestamps, known.first_timestamp) == (50362, 50363, 50364)
    assert info.suppressed_ids == (1, 2, 50258, 50358, 50359, 50361, 50362, 50363)
    assert info.first_suppressed_ids == (220, 50257)
    assert (info.max_initial_timestamp, info.positions, info.frames) == (40, 448, 3000)


def test_prompts_of_older_files_change_nothing(tmp_path: Path) -> None:
    """Transformers obeys them: here language and task decide."""
    plain = read(tmp_path, tokens(50258, 99), is_multilingual=True)
    forced = {"forced_decoder_ids": [[1, 50261], [2, 50358], [3, 50363]]}
    older = read(tmp_path, tokens(50258, 99), forced, is_multilingual=True, **forced)
    assert older == plain


def test_older_and_newer_names_of_the_token_of_silence(tmp_path: Path) -> None:
    older = tokens(50258, 99, *TASKS[:4], "nocaptions", "notimestamps")
    assert read(tmp_path, older).tokens.no_speech == 50362
    assert read(tmp_path, tokens(50258, 99)).tokens.no_speech == 50362


def test_a_hundred_languages_move_what_follows(tmp_path: Path) -> None:
    known = read(tmp_path, tokens(50258, 100), {"vocab_size": 51866}).tokens
    assert known.languages["yue"] == 50358
    assert (known.translate, known.first_timestamp) == (50359, 50365)


def test_english_only(tmp_path: Path) -> None:
    small = {"vocab_size": 51864, "decoder_start_token_id": 50257}
    info = read(tmp_path, tokens(50257, 99), small)
    assert not info.is_multilingual
    assert (info.tokens.transcribe, info.tokens.translate) == (None, None)
    assert (info.tokens.start, info.tokens.no_timestamps) == (50257, 50362)
    # The file's word goes before the size.
    assert not read(tmp_path, tokens(50258, 99), is_multilingual=False).is_multilingual


def test_ids_by_order_where_a_tokenizer_has_no_names(tmp_path: Path) -> None:
    named = read(tmp_path, tokens(50258, 99)).tokens
    nameless = read(tmp_path, {50258: "<|startoftranscript|>"}).tokens
    assert nameless.model_dump(exclude={"languages"}) == named.model_dump(exclude={"languages"})


def test_suppressed_tokens_of_older_files(tmp_path: Path) -> None:
    older = {"suppress_tokens": [5], "begin_suppress_tokens": [220, 50257]}
    info = read(tmp_path, tokens(50258, 99), older)
    assert 5 in info.suppressed_ids
    assert info.first_suppressed_ids == (220, 50257)
    assert read(tmp_path, tokens(50258, 99)).first_suppressed_ids == (50257,)


@pytest.mark.parametrize("missing", ["num_mel_bins", "max_source_positions", "vocab_size"])
def test_what_a_configuration_must_say(tmp_path: Path, missing: str) -> None:
    with pytest.raises(SpeechFilesError, match=missing):
        read(tmp_path, tokens(50258, 99), {missing: None})


def test_the_text_folder_tells_it(tmp_path: Path) -> None:
    model, facts = tmp_path / "model", tmp_path / "facts"
    model.mkdir()
    facts.mkdir()
    (model / "config.json").write_text(json.dumps(CONFIG))
    (facts / "tokenizer.json").write_text("{}")
    known = {
        "config": CONFIG,
        "special_tokens": {},
        "eos_token_id": 50257,
        "model_max_length": 1024,
        "tokenizer_class": "WhisperTokenizer",
        "added_tokens": {str(number): text for number, text in tokens(50258, 99).items()},
    }
    (facts / "facts.json").write_text(json.dumps(known))
    info = write_text_folder(model, facts, tmp_path / "text", TextOverrides())
    assert info.tasks == ("transcription",)
    assert info.max_model_len == 448  # not the tokenizer's 1024
    with pytest.raises(ModelError, match="pooling"):
        write_text_folder(model, facts, tmp_path / "text", TextOverrides(pools_for="embed"))
