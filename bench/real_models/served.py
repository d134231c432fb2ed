"""Ask running servers, Headrace and llama.cpp's, for tokens."""

import json
import urllib.error
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any


class Refused(Exception):
    """A server has answered with an error."""


def ask(url: str, body: dict[str, Any]) -> Any:
    """Return the JSON answer to a POST request. Raises Refused with the server's reason."""
    request = urllib.request.Request(
        url, json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request) as response:
            return json.load(response)
    except urllib.error.HTTPError as error:
        raise Refused(f"{body}: {error.read().decode()}"[:500]) from None


def tokens_of(url: str, text: str) -> list[int]:
    """Return Headrace's token ids of a text, with what every text begins with."""
    return list(ask(f"{url}/tokenize", {"prompt": text})["tokens"])


def chat_tokens(url: str, messages: Sequence[dict[str, str]]) -> list[int]:
    """Return Headrace's token ids of a conversation."""
    return list(ask(f"{url}/tokenize", {"messages": list(messages)})["tokens"])


def llama_tokens(url: str, text: str) -> list[int]:
    """Return the token ids of llama.cpp's server for a text."""
    body = {"content": text, "add_special": True, "parse_special": True}
    return list(ask(f"{url}/tokenize", body)["tokens"])


def llama_chat_tokens(url: str, messages: Sequence[dict[str, str]]) -> list[int]:
    """Return the token ids of llama.cpp's server for a conversation."""
    return llama_tokens(url, ask(f"{url}/apply-template", {"messages": list(messages)})["prompt"])


def continuations(url: str, prompts: Sequence[list[int]], length: int) -> list[list[int]]:
    """Return Headrace's greedy tokens after each prompt; all are asked for at once."""

    def one(prompt: list[int]) -> list[int]:
        body = {"prompt": prompt, "max_tokens": length, "temperature": 0, "ignore_eos": True}
        answer = ask(f"{url}/v1/completions", {**body, "return_token_ids": True})
        return list(answer["choices"][0]["token_ids"])

    with ThreadPoolExecutor(len(prompts)) as pool:
        return list(pool.map(one, prompts))
