"""The requests of the load. Each has one right answer: greedy, or drawn with a seed."""

from dataclasses import dataclass
from typing import Any

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"

_LORE = "The quick brown fox jumps over the lazy dog, and the user asks the system about Paris. "
_SHARED = [{"role": "system", "content": _LORE * 9}]
_CITY = {
    "type": "object",
    "properties": {
        "city": {"enum": ["Paris", "Rome", "São Paulo"]},
        "inhabitants": {"type": "array", "items": {"type": "integer"}, "minItems": 30},
    },
    "required": ["city", "inhabitants"],
    "additionalProperties": False,
}
_TOOL = {
    "type": "function",
    "function": {"name": "get_weather", "description": "Weather.", "parameters": _CITY},
}


@dataclass(frozen=True)
class Request:
    """body: without `stream`, which the client adds; that changes the answer's form only."""

    name: str
    path: str
    body: dict[str, Any]


def _completion(name: str, prompt: str | list[str], **fields: Any) -> Request:
    body = {"prompt": prompt, "temperature": 0, "return_token_ids": True}
    return Request(name, COMPLETIONS, body | fields)


def _chat(name: str, messages: list[dict[str, str]], **fields: Any) -> Request:
    body = {"messages": messages, "temperature": 0, "return_token_ids": True}
    return Request(name, CHAT, body | fields)


def _user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def make_requests() -> list[Request]:
    """All kinds of them."""
    free = {"max_tokens": 400, "ignore_eos": True}
    drawn = {"temperature": 1, "seed": 11}
    schema = {"type": "json_schema", "json_schema": {"name": "city", "schema": _CITY}}
    tight = {"structured_outputs": {"disable_any_whitespace": True}}
    return [
        _completion("short prompt", "hello", **free),
        _completion("long prompt", _LORE * 18, max_tokens=100, ignore_eos=True),
        _completion("several prompts", ["one", "two", _LORE], max_tokens=150, ignore_eos=True),
        _completion("drawn", "once upon a time", **free, **drawn),
        _completion("drawn thrice", "the dog", n=3, max_tokens=200, **drawn),
        _completion("echo", _LORE, echo=True, logprobs=2, max_tokens=120, ignore_eos=True),
        _completion("until a stop", "jumps", max_tokens=400, min_tokens=100, stop=["a", " t"]),
        _completion("until its end", "over", max_tokens=1000, temperature=1, seed=3),
        *(_chat(f"shared {n}", [*_SHARED, *_user(f"Question {n}")], **free) for n in range(3)),
        _chat("log probabilities", _user("hi"), logprobs=True, top_logprobs=3, **free),
        _chat("drawn twice", _user("tell me"), n=2, **free, **drawn),
        _chat("penalties", _user("go on"), **free, **drawn, presence_penalty=0.5,
              frequency_penalty=0.3, repetition_penalty=1.1),
        _chat("stop strings", _user("stop"), max_tokens=400, min_tokens=50, stop=["e", "über"]),
        _chat("schema", _user("city"), max_tokens=400, response_format=schema, **tight),
        _chat("drawn schema", _user("city"), max_tokens=400, response_format=schema, **drawn),
        _chat("tool", _user("weather"), max_tokens=400, tools=[_TOOL], tool_choice="required"),
    ]  # fmt: skip
