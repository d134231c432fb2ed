"""The parts of answers: a recording's text, segments, words, log probabilities and usage."""

import math
from collections.abc import Sequence
from typing import Any

from headrace.frontend.speech.plan import SpeechPlan
from headrace.frontend.speech.results import UsedTokens, WindowResult, WrittenToken
from headrace.frontend.speech.segments import FRAME_S, Segment
from headrace.frontend.text.detokenizer import join

_DIGITS = 3  # of seconds
_AUDIO_TOKENS_PER_S = 50  # vectors of the encoder


def decode(plan: SpeechPlan, token_ids: Sequence[int]) -> str:
    """Return the text of tokens, which have no times among them."""
    return join(plan.model.tokenizer.detokenizer(skip_special_tokens=True), token_ids)


def duration_usage(duration_s: float) -> dict[str, Any]:
    """Return the usage of an answer in one piece."""
    return {"type": "duration", "seconds": math.ceil(duration_s)}


def token_usage(used: UsedTokens, duration_s: float) -> dict[str, Any]:
    """Return the usage of a stream, under the names of OpenAI's API and of the reference."""
    audio = math.ceil(duration_s * _AUDIO_TOKENS_PER_S)
    prompt = used.prompt + audio
    total = prompt + used.output
    return {
        "type": "tokens",
        "input_tokens": prompt,
        "output_tokens": used.output,
        "total_tokens": total,
        "input_token_details": {"audio_tokens": audio, "text_tokens": used.prompt},
        "prompt_tokens": prompt,
        "completion_tokens": used.output,
        "seconds": math.ceil(duration_s),
    }


def logprob_items(plan: SpeechPlan, tokens: Sequence[WrittenToken]) -> list[dict[str, Any]]:
    """Return the log probabilities of a text's tokens."""
    end, tokenizer = plan.tokens.end, plan.model.tokenizer
    return [
        {
            "token": (data := tokenizer.token_bytes(each.token_id)).decode(errors="replace"),
            "bytes": list(data),
            "logprob": each.logprob,
        }
        for each in tokens
        if each.token_id < end
    ]


def segment_items(segments: Sequence[Segment]) -> list[dict[str, Any]]:
    """Return segments as verbose answers list them."""
    return [
        {
            "id": number,
            "seek": round(each.window.start_s / FRAME_S),
            "start": _seconds(each.start_s),
            "end": _seconds(each.end_s),
            "text": each.text,
            "tokens": list(each.token_ids),
            "temperature": each.window.temperature,
            "avg_logprob": each.window.avg_logprob,
            "compression_ratio": each.window.compression_ratio,
            "no_speech_prob": each.window.no_speech_prob,
        }
        for number, each in enumerate(segments)
    ]


def word_items(results: Sequence[WindowResult]) -> list[dict[str, Any]]:
    """Return the words of all windows as verbose answers list them."""
    return [
        {"word": word.text, "start": _seconds(word.start_s), "end": _seconds(word.end_s)}
        for result in results
        for word in result.words
    ]


def _seconds(value: float) -> float:
    return round(value, _DIGITS)
