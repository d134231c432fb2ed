"""Decide how a request's recording is transcribed: before any of it is decoded."""

from dataclasses import dataclass
from typing import Final, Literal, TypeVar

from headrace.frontend.context import ServedModel
from headrace.frontend.errors import BadRequest, shortened
from headrace.frontend.generation.sampling import MIN_TEMPERATURE
from headrace.frontend.schemas.speech.forms import SpeechForm
from headrace.frontend.speech.guards import Guards
from headrace.frontend.text.model_tokenizer import ModelTokenizer
from headrace.protocol.common.speech.languages import LANGUAGES, UNSPACED, language_code
from headrace.protocol.common.speech.speech_info import SpeechInfo, WhisperTokens
from headrace.protocol.config import ServingOptions
from headrace.protocol.sampling import SamplingParams

Value = TypeVar("Value")

ENGLISH: Final = "en"
# Temperatures after 0, each for a text that fails the guards at the one before (Radford et al.).
FALLBACK_TEMPERATURES: Final = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)


@dataclass(frozen=True, slots=True)
class SpeechPlan:
    """How a recording is transcribed.

    language: its code; None: it must be detected. previous: tokens in front of each window's
        prompt, with the one that begins them; empty: none.
    temperatures: one after the other, while a text fails the guards.
    sampling: of a window, but for its temperature, its seed and its limit.
    max_tokens: of a window's text; None: as many as the model takes.
    beams: width of the search for the first text of a window; 1: there is none. length_penalty: of
        beams.
    is_live: whether text is told while it is written, before the guards have seen all of it.
    """

    model: ServedModel
    info: SpeechInfo
    task: Literal["transcribe", "translate"]
    language: str | None
    previous: tuple[int, ...]
    temperatures: tuple[float, ...]
    guards: Guards
    sampling: SamplingParams
    max_tokens: int | None
    has_timestamps: bool
    has_words: bool
    is_live: bool
    beams: int = 1
    length_penalty: float = 1.0

    @property
    def tokens(self) -> WhisperTokens:
        return self.info.tokens

    def prompt(self, language: str) -> tuple[int, ...]:
        """Return the prompt of a window."""
        end = () if self.has_timestamps else (self.tokens.no_timestamps,)
        return (*self.previous, *self.start(language), *end)

    def start(self, language: str) -> tuple[int, ...]:
        """Return the tokens that say what to do with a window."""
        tokens = self.tokens
        task = tokens.translate if self.task == "translate" else tokens.transcribe
        said = (tokens.start, tokens.languages.get(language), task)
        return tuple(each for each in said if each is not None)

    def separator(self, language: str) -> str:
        """Return the text between those of two windows."""
        is_unspaced = self.task == "transcribe" and language in UNSPACED
        return "" if is_unspaced else " "


async def make_plan(model: ServedModel, form: SpeechForm) -> SpeechPlan:
    """Return the plan of a request. Raises BadRequest if the model cannot do what it asks."""
    info = speech_of(model)
    language = _language(info, form)
    serving = model.group.serving
    falls_back = _chosen(
        form.temperature_fallback, serving.temperature_fallback and not form.stream
    )
    temperature = _temperature(model, form)
    is_one = temperature > 0 or not falls_back
    return SpeechPlan(
        model=model,
        info=info,
        task=form.task,
        language=language,
        previous=await _previous(model.tokenizer, info, form),
        temperatures=(temperature,) if is_one else FALLBACK_TEMPERATURES,
        guards=_guards(form, serving),
        sampling=_sampling(model, form),
        max_tokens=_max_tokens(model, form),
        has_timestamps=form.has_segments,
        has_words=form.has_words,
        is_live=bool(form.stream) and is_one,
        beams=form.n if form.use_beam_search else 1,
        length_penalty=form.length_penalty,
    )


def speech_of(model: ServedModel) -> SpeechInfo:
    """Return how a model transcribes; it must."""
    info = model.tokenizer.info.speech
    assert info is not None
    return info


def language_name(code: str) -> str:
    """Return the English name of a language, as answers tell it."""
    return LANGUAGES[code]


def _language(info: SpeechInfo, form: SpeechForm) -> str | None:
    """Return the language of the recording; None if it must be detected."""
    if form.task == "translate" and info.tokens.translate is None:
        raise BadRequest(
            "model: this model knows English alone, so it does not translate.", "model"
        )
    language = _code(form.language, "language")
    wanted = _code(form.to_language, "to_language")
    if form.task == "translate" and wanted not in (None, ENGLISH):
        raise BadRequest("to_language: this model translates to English (en) alone.", "to_language")
    if form.task == "transcribe" and wanted not in (None, language) and language is not None:
        raise BadRequest(
            "to_language: a transcription is in the language of its recording.", "to_language"
        )
    if not info.is_multilingual:
        if language not in (None, ENGLISH):
            raise BadRequest("language: this model knows English (en) alone.", "language")
        return ENGLISH
    if language is not None and language not in info.tokens.languages:
        known = ", ".join(info.tokens.languages)
        raise BadRequest(f"language: what this model knows is {known}.", "language")
    return language


def _code(word: str | None, field: str) -> str | None:
    if word is None:
        return None
    code = language_code(word)
    if code is None:
        raise BadRequest(
            f"{field}: {shortened(word)!r} is not the code or the English name of a language.",
            field,
        )
    return code


async def _previous(
    tokenizer: ModelTokenizer, info: SpeechInfo, form: SpeechForm
) -> tuple[int, ...]:
    """Return hotwords and the end of the prompt, half of the positions less one at most."""
    texts = [f" {text.strip()}" for text in (form.hotwords, form.prompt) if text and text.strip()]
    if not texts:
        return ()
    room = info.positions // 2 - 1
    parts = [
        # Special tokens that a client writes are no instructions.
        [each for each in ids if each < info.tokens.end]
        for ids in await tokenizer.encode_all(texts, add_special_tokens=False)
    ]
    if not (form.hotwords and form.hotwords.strip()):
        return (info.tokens.previous, *parts[0][-room:])
    words = parts[0][: room if len(parts) == 1 else room // 2]
    text = parts[1][-(room - len(words)) :] if len(parts) > 1 else []
    return (info.tokens.previous, *words, *text)


def _guards(form: SpeechForm, serving: ServingOptions) -> Guards:
    return Guards(
        compression_ratio=_chosen(
            form.compression_ratio_threshold, serving.compression_ratio_threshold
        ),
        logprob=_chosen(form.logprob_threshold, serving.logprob_threshold),
        no_speech=_chosen(form.no_speech_threshold, serving.no_speech_threshold),
        steady_no_speech=_chosen(
            form.steady_no_speech_threshold, serving.steady_no_speech_threshold
        ),
        rejected_no_speech=_chosen(
            form.rejected_no_speech_threshold, serving.rejected_no_speech_threshold
        ),
    )


def _chosen(asked: Value | None, default: Value) -> Value:
    return default if asked is None else asked


def _temperature(model: ServedModel, form: SpeechForm) -> float:
    default = model.tokenizer.info.generation_defaults.get("temperature", 0.0)
    temperature = _chosen(form.temperature, default)
    return 0.0 if temperature < MIN_TEMPERATURE else temperature


def _sampling(model: ServedModel, form: SpeechForm) -> SamplingParams:
    defaults = model.tokenizer.info.generation_defaults
    seed = model.seeds.next() if form.seed is None else form.seed % 2**63
    return SamplingParams(
        seed=seed,
        max_tokens=1,
        temperature=0.0,
        top_p=_chosen(form.top_p, defaults.get("top_p", 1.0)),
        top_k=max(0, int(_chosen(form.top_k, defaults.get("top_k", 0)))),
        min_p=_chosen(form.min_p, defaults.get("min_p", 0.0)),
        repetition_penalty=_chosen(
            form.repetition_penalty, defaults.get("repetition_penalty", 1.0)
        ),
        presence_penalty=_chosen(form.presence_penalty, defaults.get("presence_penalty", 0.0)),
        frequency_penalty=_chosen(form.frequency_penalty, defaults.get("frequency_penalty", 0.0)),
        eos_token_ids=model.tokenizer.info.eos_token_ids,
        logprobs=0,
    )


def _max_tokens(model: ServedModel, form: SpeechForm) -> int | None:
    info = model.tokenizer.info
    bounds = [each for each in (form.max_completion_tokens, info.max_output_tokens) if each]
    return min(bounds, default=None)
