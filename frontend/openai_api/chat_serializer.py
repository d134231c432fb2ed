"""Serialize the responses of /v1/chat/completions."""

from collections.abc import Sequence
from typing import Any

from headrace.frontend.chat.chat_run import AnsweredChoice, ChatRun, MessageDelta
from headrace.frontend.chat.message import CollectedMessage, MessagePart, ToolCallPart
from headrace.frontend.generation.choice import Choice, Delta
from headrace.frontend.openai_api.chunk_frame import ChunkFrame, encode_text, own_fields
from headrace.frontend.openai_api.common import (
    ResponseHead,
    count_usage,
    encode_json,
    request_metrics,
)
from headrace.frontend.openai_api.logprobs import TokenNames, chat_logprobs, prompt_logprobs


class ChatSerializer:
    """Serializes the response to one request, as a full body or in chunks.

    prefix: text that every choice begins with (the echoed message), "" if there is none.
    """

    def __init__(self, head: ResponseHead, run: ChatRun, names: TokenNames, prefix: str) -> None:
        self._head = head
        self._run = run
        self._request = request = run.request
        self._names = names
        self._prefix = prefix
        self._role = run.role
        self._has_logprobs = bool(request.logprobs)
        self._frame = ChunkFrame(head, "chat.completion.chunk", request, self._usage)
        self._shows_tokens = bool(request.logprobs or request.return_token_ids)
        self._is_plain = run.is_plain and not (self._shows_tokens or self._frame.usage_in_chunks)

    # Full bodies

    def full_body(self, answers: Sequence[AnsweredChoice]) -> dict[str, Any]:
        """Return the body of a response that is not streamed."""
        first = answers[0].text.prompt_logprobs
        return {
            "id": self._head.answer_id,
            "object": "chat.completion",
            "created": self._head.created,
            "model": self._head.model,
            "choices": [self._choice(answer) for answer in answers],
            "service_tier": None,
            "system_fingerprint": self._head.fingerprint,
            "usage": self._usage([answer.text.choice for answer in answers]),
            "prompt_logprobs": None if first is None else prompt_logprobs(self._names, first),
            **self._prompt_fields(),
            **request_metrics([answer.text.choice for answer in answers]),
        }

    def _prompt_fields(self) -> dict[str, Any]:
        """Return what the request asks to see of its prompt; None for the rest."""
        request, prompt = self._request, self._run.prompt
        return {
            "prompt_token_ids": prompt.token_ids if request.return_token_ids else None,
            "prompt_text": prompt.text if request.return_prompt_text else None,
        }

    def _choice(self, answer: AnsweredChoice) -> dict[str, Any]:
        text = answer.text
        return {
            "index": text.choice.index,
            "message": self._message(answer.message),
            "logprobs": self._logprobs(text.logprobs),
            "finish_reason": answer.finish_reason,
            "stop_reason": text.stop_reason,
            "token_ids": text.token_ids if self._request.return_token_ids else None,
        }

    def _message(self, message: CollectedMessage) -> dict[str, Any]:
        calls, content = message.tool_calls, self._prefix + message.content
        # A message that is all reasoning, or all tool calls under tool_choice "auto", has null
        # content, not an empty string.
        is_nullable = self._run.reasoning or (calls and self._run.tools.mode == "auto")
        body: dict[str, Any] = {
            "role": self._role,
            "content": (content or None) if is_nullable else content,
            "refusal": None,
            "annotations": None,
            "audio": None,
            "function_call": None,
        }
        if calls:
            body["tool_calls"] = [
                {
                    "id": call.call_id,
                    "type": "function",
                    "function": {"name": call.name, "arguments": call.arguments},
                }
                for call in calls
            ]
        return {**body, "reasoning": message.reasoning or None}

    def _logprobs(self, logprobs: Sequence[Any]) -> dict[str, Any] | None:
        if not self._has_logprobs:
            return None
        return chat_logprobs(self._names, logprobs, bool(self._request.logprob_token_ids))

    def _usage(self, choices: Sequence[Choice]) -> dict[str, Any]:
        counted = count_usage([self._run.prompt], choices, self._head)
        if counted["prompt_tokens_details"] is not None:
            created = choices[0].written_tokens if choices else 0
            counted["prompt_tokens_details"]["created_cache_tokens"] = created
        if self._run.reasoning is not None:
            tokens = sum(self._run.reasoning_tokens(choice) for choice in choices)
            counted["completion_tokens_details"] = {"reasoning_tokens": tokens}
        return counted

    # Chunks

    def first(self, choices: Sequence[Choice]) -> str:
        """Return the chunks before any text: the role of each choice, then the echoed message."""
        end = self._frame.end_before_output(choices)
        shown = {key: value for key, value in self._prompt_fields().items() if value is not None}
        prompt = f",{encode_json(shown)[1:-1]}" if shown else ""
        role = f'"role":{encode_json(self._role)},"content":""'
        chunks = [f"{self._begin(choice, role)}}}]{prompt}{end}" for choice in choices]
        if self._prefix:
            echo = f'"content":{encode_text(self._prefix)}'
            chunks += [f"{self._begin(choice, echo)}}}]{end}" for choice in choices]
        return "".join(chunks)

    def _begin(self, choice: Choice, delta: str) -> str:
        """Return the beginning of a chunk without log probabilities, up to its choice's end.

        delta: the JSON members of the choice's delta.
        """
        return (
            f'{self._frame.start}{{"index":{choice.index},"delta":{{{delta}}}'
            ',"logprobs":null,"finish_reason":null'
        )

    def chunk(self, choices: Sequence[Choice], choice: Choice, delta: Delta) -> str:
        """Return the chunk of a delta; "" if nothing can be sent yet."""
        if self._is_plain and delta.finish_reason is None:  # nearly all chunks
            return self._plain_chunk(choice, delta.text) if delta.text else ""
        return self._full_chunk(choices, choice, self._run.read(choice, delta))

    def _plain_chunk(self, choice: Choice, text: str) -> str:
        return (
            f'{self._frame.start}{{"index":{choice.index},"delta":{{"content":{encode_text(text)}}}'
            ',"logprobs":null,"finish_reason":null}]}\n\n'
        )

    def _full_chunk(
        self, choices: Sequence[Choice], choice: Choice, message_delta: MessageDelta
    ) -> str:
        added = _delta_fields(message_delta.part)
        ended = message_delta.finish_reason is not None
        if not (added or ended or self._shows_tokens):
            return ""
        delta = message_delta.delta
        logprobs = encode_json(self._logprobs(delta.logprobs)) if self._has_logprobs else "null"
        reason = f'"{message_delta.finish_reason}"' if ended else "null"
        own = own_fields(delta, self._request)
        return (
            f'{self._frame.start}{{"index":{choice.index},"delta":{{{added}}},"logprobs":{logprobs}'
            f',"finish_reason":{reason}{own}}}]{self._frame.end(choices, ended)}'
        )

    def last(self, choices: Sequence[Choice]) -> str:
        """Return the chunk after all choices: the usage, if the request asks for it."""
        return self._frame.last(choices)


def _delta_fields(part: MessagePart) -> str:
    """Return the JSON members of a chunk's delta; "" if there are none."""
    fields = []
    if part.reasoning:
        fields.append(f'"reasoning":{encode_text(part.reasoning)}')
    if part.content:
        fields.append(f'"content":{encode_text(part.content)}')
    if part.tool_calls:
        fields.append(
            f'"tool_calls":{encode_json([_call_delta(call) for call in part.tool_calls])}'
        )
    return ",".join(fields)


def _call_delta(part: ToolCallPart) -> dict[str, Any]:
    """Return the delta of a tool call: id and name in its first part, arguments in all parts."""
    if part.name is None:
        return {"index": part.index, "function": {"arguments": part.arguments}}
    return {
        "id": part.call_id,
        "type": "function",
        "index": part.index,
        "function": {"name": part.name, "arguments": part.arguments},
    }
