"""Sends a sample's request again and compares the answer with the recorded one.

What is compared: status, content type, the shape of the body (keys and types), the order and shape
of events. What is not: ids, times, texts, numbers, lengths of lists that depend on the model.

Works on any caller, so that the same samples run inside a process and against a running server.
"""

import json
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SAMPLES = Path(__file__).parent / "samples"

# Routes and features that have no place in this server yet: sample -> why it is not replayed.
LATER = {
    "is_scaling": "scaling",
    "scale_bad": "scaling",
    "scale_missing": "scaling",
    "is_sleeping": "sleep mode",
}


# Samples of a server whose key is KEY; all others are of one without keys.
KEY = "key-1"
# Samples of a server whose only model embeds.
OF_EMBEDDINGS = frozenset(
    {
        "chat_on_embedding_model",
        "classify_on_embedding_model",
        "embeddings",
        "embeddings_batch_base64",
        "embeddings_dimensions",
        "embeddings_too_long",
        "invocations_embeddings",
        "pooling",
        "pooling_embed_task",
        "rerank_rerank",
        "rerank_v1_rerank",
        "score_many_to_many",
        "score_one_to_many",
    }
)
WITH_KEY = frozenset({"auth_health_open", "auth_missing", "auth_models", "auth_wrong"})


def _with_the_call(body: dict[str, Any]) -> None:
    """Make the named function's call of the text that the reference has left it as."""
    choice = body["choices"][0]
    function = {"name": "get_weather", "arguments": "{}"}
    call = {"id": "chatcmpl-tool-0", "type": "function", "function": function}
    choice["message"] |= {"content": "", "tool_calls": [call]}
    choice["finish_reason"] = "stop"


def _cut_or_ended(body: dict[str, Any]) -> None:
    """Leave open whether the text ends by itself: two tokens are so close there that processors
    differ in the likelier one."""
    body["choices"][0]["finish_reason"] = frozenset({"stop", "length"})


def _with_the_name(body: dict[str, Any]) -> None:
    """Show a custom tool with its name, which the reference leaves out."""
    body["tools"][2] |= {"name": "patch", "description": "d"}


# Samples of what the reference clearly did wrong, or its model did -> what makes them right.
CORRECTIONS = {
    "chat_tool_named": _with_the_call,
    "responses_tools_other_types": _with_the_name,
    "tool_history_cut_arguments": _cut_or_ended,
}

# What this server tells where the reference was not asked to, or its API's owner does.
ALWAYS_TOLD = frozenset({"prompt_tokens_details", "tasks"})
ANTHROPICS_OWN = frozenset(
    {"stop_details", "stop_sequence", "cache_creation_input_tokens", "cache_read_input_tokens"}
)

# Objects that map data to data: their keys are no part of the shape.
MAPS = frozenset({"added_tokens_decoder", "top_logprobs", "prompt_logprobs"})

# How the recorder writes a long text that repeats its beginning.
_CUT_TEXT = re.compile(r"(\w+ )\S+ \.\.\. (\d+) characters")

# Lists whose length the model decides.
MODEL_DECIDES = frozenset(
    {"content", "tokens", "text_offset", "token_logprobs", "top_logprobs", "bytes"}
    | {"prompt_logprobs", "token_strs", "token_ids", "prompt_token_ids", "embedding"}
)


@dataclass(frozen=True)
class Answer:
    """What a caller returns. headers: names in lower case."""

    status: int
    headers: dict[str, str]
    body: str


Call = Callable[[str, str, dict[str, str], bytes | None], Awaitable[Answer]]


def names() -> list[str]:
    """All samples that are replayed on a server without keys whose model generates."""
    others = LATER.keys() | WITH_KEY | OF_EMBEDDINGS
    return sorted(path.stem for path in SAMPLES.glob("*.json") if path.stem not in others)


def load(name: str) -> dict[str, Any]:
    sample: dict[str, Any] = json.loads((SAMPLES / f"{name}.json").read_text())
    if name in CORRECTIONS:
        CORRECTIONS[name](sample["response"]["body"])
    return sample


async def replay(name: str, call: Call) -> None:
    """Send the sample's request by `call(method, path, headers, body)`; AssertionError, saying
    where, if the answer is of another shape."""
    sample = load(name)
    request, expected = sample["request"], sample["response"]
    headers, body = _request_body(request)
    answer = await call(request["method"], request["path"], headers, body)
    assert answer.status == expected["status"], f"status {answer.status}: {answer.body[:500]}"
    content_type = answer.headers.get("content-type", "")
    if ";" not in expected["content_type"]:
        content_type = content_type.partition(";")[0]
    assert content_type == expected["content_type"], f"content type {content_type!r}"
    is_cors = any(header.startswith("access-control-") for header in expected["headers"])
    for header, value in expected["headers"].items():
        if header == "vary" and not is_cors:  # it comes with CORS alone
            continue
        assert header in answer.headers, f"no header {header}"
        if header in ("allow", "vary") or header.startswith("access-control-"):
            assert answer.headers[header] == value, f"{header}: {answer.headers[header]}"
    if expected["content_type"].startswith("text/event-stream"):
        _compare_streams(expected["body"], answer.body)
    elif isinstance(expected["body"], str):
        assert answer.body == expected["body"]
    else:
        compare(expected["body"], json.loads(answer.body))


def _request_body(request: dict[str, Any]) -> tuple[dict[str, str], bytes | None]:
    headers = dict(request["headers"])
    body = request["body"]
    if body is None:
        return headers, None
    if isinstance(body, str):
        return headers, body.encode()
    headers.setdefault("content-type", "application/json")
    return headers, json.dumps(_expanded(body)).encode()


def _expanded(body: dict[str, Any]) -> dict[str, Any]:
    """The recorder has cut long prompts: [5, 5, ..., "... 3000 items"] stands for 3000 of them."""
    text = body.get("input")
    if isinstance(text, str) and (cut := _CUT_TEXT.fullmatch(text)):
        return {**body, "input": (cut[1] * int(cut[2]))[: int(cut[2])]}
    prompt = body.get("prompt")
    if isinstance(prompt, list) and isinstance(prompt[-1], str) and prompt[-1].startswith("... "):
        count = int(prompt[-1].split()[1])
        return {**body, "prompt": [prompt[0]] * count}
    return body


def compare(expected: Any, actual: Any, where: str = "body") -> None:
    """AssertionError, saying where, if `actual` is not of the shape of `expected`."""
    key = where.rpartition(".")[2].partition("[")[0]
    if isinstance(expected, dict):
        assert isinstance(actual, dict), f"{where}: {actual!r} is no object"
        _compare_objects(expected, actual, where, key)
    elif isinstance(expected, list):
        assert isinstance(actual, list), f"{where}: {actual!r} is no list"
        _compare_lists(expected, actual, where, key)
    else:
        _compare_leaves(expected, actual, where, key)


def _compare_objects(
    expected: dict[str, Any], actual: dict[str, Any], where: str, key: str
) -> None:
    if key in MAPS and "token" not in expected:
        values = list(expected.values())
        for name, value in actual.items():
            compare(values[0], value, f"{where}.<{name}>")
        return
    unknown = set(actual) - set(expected) - ANTHROPICS_OWN - ALWAYS_TOLD
    if "detail" in expected:  # where the route has no use, which the reference does not say
        unknown -= {"error"}
    assert not unknown, f"{where}: {sorted(unknown)} not in the sample"
    for name, value in expected.items():
        if value is None and name not in actual:
            continue  # one of the reference's own
        assert name in actual, f"{where}: no {name}"
        compare(value, actual[name], f"{where}.{name}")


def _compare_lists(expected: list[Any], actual: list[Any], where: str, key: str) -> None:
    is_open = key in MODEL_DECIDES or (bool(expected) and isinstance(expected[0], float))
    if not is_open:
        assert len(actual) == len(expected), f"{where}: {len(actual)} items"
    assert bool(actual) == bool(expected), f"{where}: {len(actual)} items"
    if not is_open:
        for index, (wanted, value) in enumerate(zip(expected, actual, strict=True)):
            compare(wanted, value, f"{where}[{index}]")
        return
    for index, value in enumerate(actual):
        # The first may be special (nothing is known of a prompt's first token).
        compare(expected[min(index, 1, len(expected) - 1)], value, f"{where}[{index}]")


def _compare_leaves(expected: Any, actual: Any, where: str, key: str) -> None:
    if expected is None and key in ALWAYS_TOLD:
        return
    if isinstance(expected, frozenset):
        assert actual in expected, f"{where}: {actual!r} is none of {sorted(expected)}"
    elif isinstance(expected, bool) or expected is None:
        assert actual is expected, f"{where}: {actual!r} is not {expected!r}"
    elif isinstance(expected, (int, float)):
        numbers = (int,) if isinstance(expected, int) else (int, float)
        assert type(actual) in numbers, f"{where}: {actual!r} is no number like {expected!r}"
        if key in ("code", "index"):
            assert actual == expected, f"{where}: {actual!r}, not {expected!r}"
    else:
        assert isinstance(actual, str), f"{where}: {actual!r} is no string"
        if key in ("object", "role", "type", "param", "detail", "finish_reason", "stop_reason"):
            assert actual == expected, f"{where}: {actual!r}, not {expected!r}"


def _compare_streams(expected: str, actual: str) -> None:
    """Events of the same shapes in the same order; how many hold text, the model decides."""
    wanted, got = _events(expected), _events(actual)
    assert got[-1] == "[DONE]", f"the stream ends with {got[-1]!r}"
    assert _order(got) == _order(wanted), f"order {_order(got)}, not {_order(wanted)}"
    by_kind = {_kind(event): event for event in wanted[:-1]}
    for index, event in enumerate(got[:-1]):
        compare(by_kind[_kind(event)], event, f"event {index}")


def _events(body: str) -> list[Any]:
    assert body.endswith("\n\n"), "the last event is not finished"
    data = [event.removeprefix("data: ") for event in body[:-2].split("\n\n")]
    return [event if event == "[DONE]" else json.loads(event) for event in data]


def _order(events: list[Any]) -> list[str]:
    """The kinds of events, each once where several follow each other."""
    kinds = [_kind(event) for event in events]
    return [kind for index, kind in enumerate(kinds) if index == 0 or kinds[index - 1] != kind]


def _kind(event: Any) -> str:
    if event == "[DONE]":
        return "done"
    if not event["choices"]:
        return "usage"
    choice = event["choices"][0]
    if "role" in choice.get("delta", {}):
        return "role"
    return "text" if choice["finish_reason"] is None else "end"
