"""Chats that are streamed at once, read event by event: for tests in which processes die."""

import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tests.end_to_end.servers import Server


class StreamedChat:
    """The contents of a chat's stream so far. ends: finish reasons, and the end itself."""

    def __init__(self) -> None:
        self.reasoning = self.content = self.arguments = ""
        self.token_ids: list[int] = []
        self.ends: list[str] = []

    @property
    def answer(self) -> str:
        return self.content or self.arguments

    def add(self, data: str) -> None:
        if data == "[DONE]":
            self.ends.append(data)
            return
        (choice,) = json.loads(data)["choices"]
        delta = choice["delta"]
        self.reasoning += delta.get("reasoning") or ""
        self.content += delta.get("content") or ""
        for call in delta.get("tool_calls") or []:
            self.arguments += call["function"].get("arguments") or ""
        self.token_ids += choice.get("token_ids") or []
        if choice["finish_reason"] is not None:
            self.ends.append(choice["finish_reason"])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, StreamedChat) and vars(self) == vars(other)

    def __repr__(self) -> str:
        return f"Told({vars(self)})"


def chats(
    server: Server,
    requests: list[dict[str, Any]],
    after_each: Callable[[list[StreamedChat]], None] = lambda streamed: None,
) -> list[StreamedChat]:
    """The streams of all requests. after_each: called after each event of any of them."""
    streamed = [StreamedChat() for _ in requests]
    lock = threading.Lock()

    def read(number: int) -> None:
        body = {**requests[number], "stream": True, "return_token_ids": True}
        with server.client.stream("POST", "/v1/chat/completions", json=body) as response:
            response.raise_for_status()
            for line in response.iter_lines():
                if line:
                    with lock:
                        streamed[number].add(line.removeprefix("data: "))
                        after_each(streamed)

    with ThreadPoolExecutor(len(requests)) as threads:
        list(threads.map(read, range(len(requests))))
    return streamed
