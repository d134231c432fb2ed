"""Answers of the Responses and the Messages API in the form of `answers`."""

import json
from collections.abc import Sequence
from typing import Any

from .answers import Choice, Outcome, Wrong

_ENDS = ("response.completed", "response.incomplete", "response.failed", "error")


def read_response(body: bytes) -> Outcome:
    return _of_response(json.loads(body))


def read_response_stream(events: list[bytes]) -> Outcome:
    """Wrong if it has not exactly one end, or a number is missing, or its parts are not the
    whole."""
    said = _parse(events)
    ends = [each["type"] for each in said if each["type"] in _ENDS]
    if len(ends) != 1 or said[-1]["type"] not in _ENDS[:2]:
        raise Wrong(f"ends {ends}; the last event is {said[-1:]}")
    if [each["sequence_number"] for each in said] != list(range(len(said))):
        raise Wrong(f"numbers {[each['sequence_number'] for each in said]}")
    outcome = _of_response(said[-1]["response"])
    pieces = [each["delta"] for each in said if each["type"] == "response.output_text.delta"]
    if "".join(pieces) != outcome.choices[0].text:
        raise Wrong(f"deltas {pieces!r} of {outcome.choices[0].text!r}")
    return outcome


def read_message(body: bytes) -> Outcome:
    said = json.loads(body)
    return _of_message(said["content"], said["stop_reason"], said["usage"])


def read_message_stream(events: list[bytes]) -> Outcome:
    """Wrong if it has not exactly one end, or something follows that."""
    said = _parse(events)
    kinds = [each["type"] for each in said]
    if kinds[0] != "message_start" or kinds.count("message_stop") != 1 or "error" in kinds:
        raise Wrong(f"not one whole message: {said[-2:]}")
    if kinds[-2:] != ["message_delta", "message_stop"]:
        raise Wrong(f"the last events are {kinds[-2:]}")
    blocks: dict[int, dict[str, Any]] = {}
    for each in said:
        if each["type"] == "content_block_start":
            blocks[each["index"]] = {**each["content_block"], "json": ""}
        elif each["type"] == "content_block_delta":
            _extend(blocks[each["index"]], each["delta"])
    for block in blocks.values():
        if block["type"] == "tool_use":
            block["input"] = json.loads(block["json"])
    end = said[-2]
    usage = said[0]["message"]["usage"] | end["usage"]
    return _of_message(list(blocks.values()), end["delta"]["stop_reason"], usage)


def _parse(events: list[bytes]) -> list[dict[str, Any]]:
    if not events:
        raise Wrong("a stream of nothing")
    return [json.loads(event) for event in events if event != b"[DONE]"]


def _extend(block: dict[str, Any], delta: dict[str, str]) -> None:
    if delta["type"] == "text_delta":
        block["text"] += delta["text"]
    elif delta["type"] == "input_json_delta":
        block["json"] += delta["partial_json"]


def _of_response(said: dict[str, Any]) -> Outcome:
    choice = Choice(finish_reason=said["status"])
    for item in said["output"]:
        if item["type"] == "message":
            choice.text += "".join(part["text"] for part in item["content"])
        elif item["type"] == "function_call":
            choice.calls[len(choice.calls)] = [item["name"], item["arguments"]]
    return _outcome(choice, said["usage"])


def _of_message(content: Sequence[dict[str, Any]], reason: str, usage: dict[str, int]) -> Outcome:
    choice = Choice(finish_reason=reason)
    for block in content:
        if block["type"] == "text":
            choice.text += block["text"]
        elif block["type"] == "tool_use":
            choice.calls[len(choice.calls)] = [block["name"], json.dumps(block["input"])]
    return _outcome(choice, usage)


def _outcome(choice: Choice, usage: dict[str, int]) -> Outcome:
    # Messages count apart what the cache gave and got, and where a prompt runs is a matter of chance.
    apart = ("cache_read_input_tokens", "cache_creation_input_tokens")
    prompt = usage["input_tokens"] + sum(usage.get(each) or 0 for each in apart)
    output = usage["output_tokens"]
    return Outcome({0: choice}, (prompt, output, prompt + output))
