"""The requests of the load. Each has one right answer: greedy, or drawn with a seed."""

from dataclasses import dataclass
from typing import Any

from .models import ADAPTER, SERVED_AS, VISITOR

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
RESPONSES, MESSAGES = "/v1/responses", "/v1/messages"

_LORE = "The quick brown fox jumps over the lazy dog, and the user asks the system about Paris. "
_SHARED = [{"role": "system", "content": _LORE * 9}]
_CITY: dict[str, Any] = {
    "type": "object",
    "properties": {
        "city": {"enum": ["Paris", "Rome", "São Paulo"]},
        "inhabitants": {"type": "array", "items": {"type": "integer"}, "minItems": 30},
    },
    "required": ["city", "inhabitants"],
    "additionalProperties": False,
}
_TOOL: dict[str, Any] = {
    "type": "function",
    "function": {"name": "get_weather", "description": "Weather.", "parameters": _CITY},
}


@dataclass(frozen=True)
class Request:
    """body: without `stream`, which the client adds if `can_stream`; that changes the answer's form
    only."""

    name: str
    path: str
    body: dict[str, Any]

    @property
    def can_stream(self) -> bool:
        return "use_beam_search" not in self.body


def _completion(name: str, prompt: str | list[str], **fields: Any) -> Request:
    body = {"prompt": prompt, "temperature": 0, "return_token_ids": True}
    return Request(name, COMPLETIONS, body | fields)


def _chat(name: str, messages: list[dict[str, str]], **fields: Any) -> Request:
    body = {"messages": messages, "temperature": 0, "return_token_ids": True}
    return Request(name, CHAT, body | fields)


def _response(name: str, text: str, **fields: Any) -> Request:
    return Request(name, RESPONSES, {"input": text, "temperature": 0} | fields)


def _message(name: str, text: str, **fields: Any) -> Request:
    body = {"model": SERVED_AS, "messages": _user(text), "temperature": 0, "max_tokens": 400}
    return Request(name, MESSAGES, body | fields)


def _user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def make_requests() -> list[Request]:
    """All kinds of them."""
    free = {"max_tokens": 400, "ignore_eos": True}
    drawn = {"temperature": 1, "seed": 11}
    schema = {"type": "json_schema", "json_schema": {"name": "city", "schema": _CITY}}
    named = {"type": "function", **_TOOL["function"]}
    # Short enough to be whole: in this API what a call says is an object, not text.
    named_only = {
        **_CITY,
        "required": ["city"],
        "properties": {"city": _CITY["properties"]["city"]},
    }
    used = {"name": "get_weather", "description": "Weather.", "input_schema": named_only}
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
        _completion("beams", "search", use_beam_search=True, n=2, max_tokens=40),
        _response("response", "answer me", max_output_tokens=300),
        _response("response, not kept", "again", max_output_tokens=200, store=False),
        _response("response's tool", "weather", tools=[named], tool_choice="required",
                  max_output_tokens=400, store=False),
        _message("message", "write to me"),
        _message("message's tool", "weather", tools=[used], tool_choice={"type": "any"}),
        _completion("adapter", "hello", model=ADAPTER, **free),
        _chat("adapter, shared", [*_SHARED, *_user("Question 0")], model=ADAPTER, **free),
        _response("adapter's response", "answer me", model=ADAPTER, max_output_tokens=200),
        _chat("tool", _user("weather"), max_tokens=400, tools=[_TOOL], tool_choice="required"),
    ]  # fmt: skip


def visitor_request() -> Request:
    """For the adapter that comes and goes."""
    return _completion("visitor", "hello", model=VISITOR, max_tokens=60, ignore_eos=True)
