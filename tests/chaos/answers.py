"""What an answer says, streamed or not, in one form; and whether a stream keeps to its rules."""

import json
from dataclasses import dataclass, field
from typing import Any

TOLERANCE = 1e-3  # of log probabilities: operations of torch depend a little on their batch


class Wrong(Exception):
    """The answer is none that the server may give."""


@dataclass
class Choice:
    """calls: name and arguments of each tool call, by its index."""

    text: str = ""
    calls: dict[int, list[str]] = field(default_factory=dict)
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    finish_reason: str | None = None
    stop_reason: str | int | None = None


@dataclass
class Outcome:
    """usage: tokens of the prompt, of the output, of both."""

    choices: dict[int, Choice] = field(default_factory=dict)
    usage: tuple[int, int, int] | None = None

    def differences(self, other: "Outcome") -> list[str]:
        """In which ways another answer to the same request differs."""
        found = []
        if self.usage != other.usage:
            found.append(f"usage {other.usage} instead of {self.usage}")
        if self.choices.keys() != other.choices.keys():
            return [*found, f"choices {sorted(other.choices)}"]
        for index, choice in self.choices.items():
            found += [f"choice {index}: {each}" for each in _differ(choice, other.choices[index])]
        return found


def _differ(right: Choice, other: Choice) -> list[str]:
    found = []
    for name in ("text", "calls", "token_ids", "finish_reason", "stop_reason"):
        expected, got = getattr(right, name), getattr(other, name)
        if expected != got:
            found.append(f"{name} {got!r} instead of {expected!r}")
    pairs = zip(right.logprobs, other.logprobs, strict=False)
    same = len(right.logprobs) == len(other.logprobs)
    if not same or any(abs(one - two) > TOLERANCE for one, two in pairs):
        found.append(f"logprobs {other.logprobs} instead of {right.logprobs}")
    return found


def read_whole(body: bytes) -> Outcome:
    """An answer that was not streamed."""
    answer = json.loads(body)
    outcome = Outcome(usage=_usage(answer["usage"]))
    for each in answer["choices"]:
        outcome.choices[each["index"]] = choice = Choice()
        _add(choice, each, each.get("message") or {})
    return outcome


def read_stream(events: list[bytes]) -> Outcome:
    """A stream that has ended. Wrong if it has not exactly one end, or something follows it."""
    if events.count(b"[DONE]") != 1 or events[-1] != b"[DONE]":
        raise Wrong(f"{events.count(b'[DONE]')} [DONE]; the last event is {events[-1:]}")
    outcome = Outcome()
    for event in events[:-1]:
        _take(outcome, json.loads(event))
    if outcome.usage is None:
        raise Wrong("a stream without usage")
    return outcome


def _take(outcome: Outcome, chunk: dict[str, Any]) -> None:
    if "error" in chunk:
        raise Wrong(f"an error within a stream: {chunk['error']}")
    if outcome.usage is not None:
        raise Wrong(f"a chunk after the usage: {chunk}")
    for each in chunk["choices"]:
        choice = outcome.choices.setdefault(each["index"], Choice())
        if choice.finish_reason is not None:
            raise Wrong(f"a chunk after the finish_reason: {chunk}")
        _add(choice, each, each.get("delta") or {})
    if chunk.get("usage"):
        if chunk["choices"] or not all(each.finish_reason for each in outcome.choices.values()):
            raise Wrong(f"usage before the end: {chunk}")
        outcome.usage = _usage(chunk["usage"])


def _add(choice: Choice, said: dict[str, Any], message: dict[str, Any]) -> None:
    choice.text += said.get("text") or message.get("content") or ""
    choice.token_ids += said.get("token_ids") or []
    for index, call in enumerate(message.get("tool_calls") or []):
        known = choice.calls.setdefault(call.get("index", index), ["", ""])
        known[0] += call["function"].get("name") or ""
        known[1] += call["function"].get("arguments") or ""
    choice.logprobs += _logprobs(said.get("logprobs") or {})
    choice.finish_reason = said["finish_reason"]
    choice.stop_reason = said.get("stop_reason")


def _logprobs(said: dict[str, Any]) -> list[float]:
    if "token_logprobs" in said:
        return [0.0 if each is None else each for each in said["token_logprobs"]]
    return [
        each["logprob"]
        for token in said.get("content") or []
        for each in [token, *token["top_logprobs"]]
    ]


def _usage(said: dict[str, int]) -> tuple[int, int, int]:
    return said["prompt_tokens"], said["completion_tokens"], said["total_tokens"]
