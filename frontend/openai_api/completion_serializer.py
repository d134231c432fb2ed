"""Serialize the responses of /v1/completions."""

from collections.abc import Sequence
from typing import Any

from headrace.frontend.generation.choice import Choice, Delta
from headrace.frontend.generation.generation import CollectedChoice
from headrace.frontend.generation.start_generation import Prompt
from headrace.frontend.openai_api.chunk_frame import ChunkFrame, encode_text, own_fields
from headrace.frontend.openai_api.common import (
    ResponseHead,
    count_usage,
    encode_json,
    request_metrics,
)
from headrace.frontend.openai_api.logprobs import CompletionLogprobs, TokenNames, prompt_logprobs
from headrace.frontend.schemas.completion import CompletionRequest
from headrace.frontend.text.offsets import output_offsets, prompt_offsets
from headrace.protocol.to_frontend import Logprobs


class CompletionSerializer:
    """Serializes the response to one request, as a full body or in chunks.

    echoes: for each prompt, the text that its completions begin with; "" without echo.
    """

    def __init__(
        self,
        head: ResponseHead,
        request: CompletionRequest,
        prompts: Sequence[Prompt],
        names: TokenNames,
        echoes: Sequence[str],
    ) -> None:
        self._head = head
        self._request = request
        self._prompts = prompts
        self._names = names
        self._echoes = echoes
        self._logprobs: dict[int, CompletionLogprobs] = {}
        self._started: set[int] = set()
        self._frame = ChunkFrame(head, "text_completion", request, self._usage)
        has_logprobs = request.logprobs is not None
        self._is_plain = not (
            has_logprobs or request.return_token_ids or self._frame.usage_in_chunks
        )

    # Full bodies

    def full_body(self, outputs: Sequence[CollectedChoice]) -> dict[str, Any]:
        """Return the body of a response that is not streamed."""
        return {
            "id": self._head.answer_id,
            "object": "text_completion",
            "created": self._head.created,
            "model": self._head.model,
            "choices": [self._choice(output) for output in outputs],
            "service_tier": None,
            "system_fingerprint": self._head.fingerprint,
            "usage": self._usage([output.choice for output in outputs]),
            **request_metrics([output.choice for output in outputs]),
        }

    def _usage(self, choices: Sequence[Choice]) -> dict[str, Any]:
        return count_usage(self._prompts, choices, self._head)

    def _choice(self, output: CollectedChoice) -> dict[str, Any]:
        choice, of_prompt = output.choice, output.prompt_logprobs
        prompt = self._prompts[choice.prompt]
        shows_ids = self._request.return_token_ids
        return {
            "index": choice.index,
            "text": self._echoes[choice.prompt] + output.text,
            "logprobs": self._logprobs_field(choice, output.logprobs, of_prompt, is_first=True),
            "finish_reason": output.finish_reason,
            "stop_reason": output.stop_reason,
            "token_ids": output.token_ids if shows_ids else None,
            "prompt_logprobs": (
                None if of_prompt is None else prompt_logprobs(self._names, of_prompt)
            ),
            "prompt_token_ids": prompt.token_ids if shows_ids else None,
        }

    def _logprobs_field(
        self,
        choice: Choice,
        logprobs: Sequence[Logprobs],
        of_prompt: Sequence[Logprobs] | None,
        is_first: bool,
    ) -> dict[str, Any] | None:
        """Return `logprobs` of a choice or a chunk.

        is_first: the tokens of an echoed prompt come before those of the output.
        """
        if self._request.logprobs is None:
            return None
        text = self._names.text
        prompt, echo = self._prompts[choice.prompt], self._echoes[choice.prompt]
        serializer = self._logprobs.get(choice.index)
        if serializer is None:
            skip = self._request.skip_special_tokens
            offsets = output_offsets(text, skip, prompt.token_ids, len(echo))
            serializer = CompletionLogprobs(self._names, offsets)
            self._logprobs[choice.index] = serializer
        echoed = None
        if is_first and self._request.echo:
            echo_offsets = prompt_offsets(text, prompt.token_ids, echo)
            echoed = serializer.of_prompt(prompt.token_ids, of_prompt, echo_offsets)
        return serializer.of_output(logprobs, echoed)

    # Chunks

    def first(self, choices: Sequence[Choice]) -> str:
        """Return "": a stream of completions has no chunk before its text."""
        return ""

    def chunk(self, choices: Sequence[Choice], choice: Choice, delta: Delta) -> str:
        """Return the chunk of a delta; "" if nothing can be sent yet."""
        ended = delta.finish_reason is not None
        is_first = choice.index not in self._started
        if self._is_plain and not ended and not is_first:  # nearly all chunks
            return self._plain_chunk(choice, delta.text) if delta.text else ""
        return self._full_chunk(choices, choice, delta, ended, is_first)

    def _plain_chunk(self, choice: Choice, text: str) -> str:
        return (
            f'{self._frame.start}{{"index":{choice.index},"text":{encode_text(text)},'
            '"logprobs":null,"finish_reason":null}]}\n\n'
        )

    def _full_chunk(
        self, choices: Sequence[Choice], choice: Choice, delta: Delta, ended: bool, is_first: bool
    ) -> str:
        request = self._request
        text = self._echoes[choice.prompt] + delta.text if is_first else delta.text
        if not (text or ended or request.logprobs is not None or request.return_token_ids):
            return ""
        self._started.add(choice.index)
        of_prompt = None if delta.admission is None else delta.admission.prompt_logprobs
        logprobs = self._logprobs_field(choice, delta.logprobs, of_prompt, is_first)
        reason = f'"{delta.finish_reason}"' if ended else "null"
        own = own_fields(delta, request)
        if request.return_token_ids and is_first:
            token_ids = self._prompts[choice.prompt].token_ids
            own += f',"prompt_token_ids":{encode_json(token_ids)}'
        return (
            f'{self._frame.start}{{"index":{choice.index},"text":{encode_text(text)},'
            f'"logprobs":{"null" if logprobs is None else encode_json(logprobs)},'
            f'"finish_reason":{reason}{own}}}]{self._frame.end(choices, ended)}'
        )

    def last(self, choices: Sequence[Choice]) -> str:
        """Return the chunk after all choices: the usage, if the request asks for it."""
        return self._frame.last(choices)
