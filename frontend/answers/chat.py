"""The answers of /v1/chat/completions."""

from collections.abc import Sequence
from typing import Any

from frontend.answers.common import Head, encode_json, usage
from frontend.answers.frame import ChunkFrame, encode_text
from frontend.answers.logprobs import TokenNames, chat_logprobs, prompt_logprobs
from frontend.generation.choice import Choice, Delta
from frontend.generation.run import Collected
from frontend.generation.start import Prompt
from frontend.schemas.chat import ChatCompletionRequest

ROLE = "assistant"


class ChatAnswer:
    """The answer to one request, whole or in chunks.

    prefix: text that each answer begins with (the echoed message), "" if none.
    """

    def __init__(
        self,
        head: Head,
        request: ChatCompletionRequest,
        prompt: Prompt,
        names: TokenNames,
        prefix: str,
    ) -> None:
        self._head = head
        self._request = request
        self._prompt = prompt
        self._names = names
        self._prefix = prefix
        self._top = (request.top_logprobs or 0) if request.logprobs else None
        self._frame = ChunkFrame(head, "chat.completion.chunk", request, self._usage)
        self._is_plain = not (
            request.logprobs or request.return_token_ids or self._frame.usage_in_chunks
        )

    # A whole answer

    def whole(self, texts: Sequence[Collected]) -> dict[str, Any]:
        """The body of an answer in one piece."""
        request = self._request
        first = texts[0].prompt_logprobs
        return {
            "id": self._head.answer_id,
            "object": "chat.completion",
            "created": self._head.created,
            "model": self._head.model,
            "choices": [self._choice(text) for text in texts],
            "service_tier": None,
            "system_fingerprint": self._head.fingerprint,
            "usage": self._usage([text.choice for text in texts]),
            "prompt_logprobs": None if first is None else prompt_logprobs(self._names, first),
            "prompt_token_ids": self._prompt.token_ids if request.return_token_ids else None,
            "prompt_text": self._prompt.text if request.return_prompt_text else None,
        }

    def _choice(self, text: Collected) -> dict[str, Any]:
        return {
            "index": text.choice.index,
            "message": {
                "role": ROLE,
                "content": self._prefix + text.text,
                "refusal": None,
                "annotations": None,
                "audio": None,
                "function_call": None,
                "reasoning": None,
            },
            "logprobs": self._logprobs(text.logprobs),
            "finish_reason": text.finish_reason,
            "stop_reason": text.stop_reason,
            "token_ids": text.token_ids if self._request.return_token_ids else None,
        }

    def _logprobs(self, logprobs: Sequence[Any]) -> dict[str, Any] | None:
        if self._top is None:
            return None
        return chat_logprobs(self._names, logprobs, self._top)

    def _usage(self, choices: Sequence[Choice]) -> dict[str, Any]:
        counted = usage([self._prompt], choices)
        # The reference's chats have this key, always 0: what goes into the cache is not accounted.
        counted["prompt_tokens_details"]["created_cache_tokens"] = 0
        return counted

    # Chunks

    def first(self, choices: Sequence[Choice]) -> str:
        """The chunks that come before any text: each choice's role, then what is echoed."""
        request = self._request
        about_prompt = {
            "prompt_token_ids": self._prompt.token_ids if request.return_token_ids else None,
            "prompt_text": self._prompt.text if request.return_prompt_text else None,
        }
        end = "]," + encode_json(about_prompt)[1:-1] + self._frame.end(choices)
        role = f'"delta":{{"role":"{ROLE}","content":""}},"logprobs":null,"finish_reason":null'
        chunks = [
            f'{self._frame.start}{{"index":{choice.index},{role}}}{end}' for choice in choices
        ]
        if self._prefix:
            echo = Delta(self._prefix, (), ())
            chunks += [self.chunk(choices, choice, echo) for choice in choices]
        return "".join(chunks)

    def chunk(self, choices: Sequence[Choice], choice: Choice, delta: Delta) -> str:
        """The chunk of a delta; "" if there is nothing to tell yet."""
        ended = delta.finish_reason is not None
        if self._is_plain and not ended:  # nearly all chunks of nearly all streams
            return self._plain(choice, delta.text) if delta.text else ""
        return self._full(choices, choice, delta, ended)

    def _plain(self, choice: Choice, text: str) -> str:
        return (
            f'{self._frame.start}{{"index":{choice.index},"delta":{{"content":{encode_text(text)}}}'
            ',"logprobs":null,"finish_reason":null,"token_ids":null}]}\n\n'
        )

    def _full(self, choices: Sequence[Choice], choice: Choice, delta: Delta, ended: bool) -> str:
        request = self._request
        if not (delta.text or ended or self._top is not None or request.return_token_ids):
            return ""
        content = f'{{"content":{encode_text(delta.text)}}}' if delta.text else "{}"
        logprobs = "null" if self._top is None else encode_json(self._logprobs(delta.logprobs))
        token_ids = encode_json(delta.token_ids) if request.return_token_ids else "null"
        reason = "null"
        if ended:
            reason = f'"{delta.finish_reason}","stop_reason":{encode_json(delta.stop_reason)}'
        return (
            f'{self._frame.start}{{"index":{choice.index},"delta":{content},"logprobs":{logprobs},'
            f'"finish_reason":{reason},"token_ids":{token_ids}}}]{self._frame.end(choices, ended)}'
        )

    def last(self, choices: Sequence[Choice]) -> str:
        return self._frame.last(choices)
