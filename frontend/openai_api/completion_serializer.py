"""The answers of /v1/completions."""

from collections.abc import Sequence
from typing import Any

from headrace.frontend.generation.choice import Choice, Delta
from headrace.frontend.generation.generation import CollectedChoice
from headrace.frontend.generation.start_generation import Prompt
from headrace.frontend.openai_api.chunk_frame import ChunkFrame, encode_text
from headrace.frontend.openai_api.common import ResponseHead, encode_json, usage
from headrace.frontend.openai_api.logprobs import CompletionLogprobs, TokenNames, prompt_logprobs
from headrace.frontend.schemas.completion import CompletionRequest
from headrace.frontend.text.offsets import output_offsets, prompt_offsets
from headrace.protocol.to_frontend import Logprobs


class CompletionSerializer:
    """The answer to one request, whole or in chunks.

    echoes: for each prompt, the text that its completions begin with; "" if none is wanted.
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
        self._begun: set[int] = set()
        self._frame = ChunkFrame(head, "text_completion", request, self._usage)
        has_logprobs = request.logprobs is not None
        self._is_plain = not (
            has_logprobs or request.return_token_ids or self._frame.usage_in_chunks
        )

    # A whole answer

    def full_body(self, texts: Sequence[CollectedChoice]) -> dict[str, Any]:
        """The body of an answer in one piece."""
        return {
            "id": self._head.answer_id,
            "object": "text_completion",
            "created": self._head.created,
            "model": self._head.model,
            "choices": [self._choice(text) for text in texts],
            "service_tier": None,
            "system_fingerprint": self._head.fingerprint,
            "usage": self._usage([text.choice for text in texts]),
        }

    def _usage(self, choices: Sequence[Choice]) -> dict[str, Any]:
        return usage(self._prompts, choices, self._head)

    def _choice(self, text: CollectedChoice) -> dict[str, Any]:
        request = self._request
        prompt = self._prompts[text.choice.prompt]
        of_prompt = text.prompt_logprobs
        ids_wanted = request.return_token_ids
        return {
            "index": text.choice.index,
            "text": self._echoes[text.choice.prompt] + text.text,
            "logprobs": self._shape(text.choice, text.logprobs, of_prompt, first=True),
            "finish_reason": text.finish_reason,
            "stop_reason": text.stop_reason,
            "token_ids": text.token_ids if ids_wanted else None,
            "prompt_logprobs": (
                None if of_prompt is None else prompt_logprobs(self._names, of_prompt)
            ),
            "prompt_token_ids": prompt.token_ids if ids_wanted else None,
        }

    def _shape(
        self,
        choice: Choice,
        logprobs: Sequence[Logprobs],
        of_prompt: Sequence[Logprobs] | None,
        first: bool,
    ) -> dict[str, Any] | None:
        """The logprobs of what an answer or a chunk shows; first: the prompt's go before them."""
        if self._request.logprobs is None:
            return None
        text = self._names.text
        prompt, echo = self._prompts[choice.prompt], self._echoes[choice.prompt]
        shapes = self._logprobs.get(choice.index)
        if shapes is None:
            skip = self._request.skip_special_tokens
            offsets = output_offsets(text, skip, prompt.token_ids, len(echo))
            shapes = CompletionLogprobs(self._names, offsets)
            self._logprobs[choice.index] = shapes
        echoed = None
        if first and self._request.echo:
            places = prompt_offsets(text, prompt.token_ids, echo)
            echoed = shapes.of_prompt(prompt.token_ids, of_prompt, places)
        return shapes.of_output(logprobs, echoed)

    # Chunks

    def first(self, choices: Sequence[Choice]) -> str:
        """A completion's stream begins with its text."""
        return ""

    def chunk(self, choices: Sequence[Choice], choice: Choice, delta: Delta) -> str:
        """The chunk of a delta; "" if there is nothing to tell yet."""
        ended = delta.finish_reason is not None
        begins = choice.index not in self._begun
        if self._is_plain and not ended and not begins:  # nearly all chunks of nearly all streams
            return self._plain(choice, delta.text) if delta.text else ""
        return self._full(choices, choice, delta, ended, begins)

    def _plain(self, choice: Choice, text: str) -> str:
        return (
            f'{self._frame.start}{{"index":{choice.index},"text":{encode_text(text)},'
            '"logprobs":null,"finish_reason":null,"stop_reason":null,'
            '"prompt_token_ids":null,"token_ids":null}]}\n\n'
        )

    def _full(
        self, choices: Sequence[Choice], choice: Choice, delta: Delta, ended: bool, begins: bool
    ) -> str:
        request = self._request
        text = self._echoes[choice.prompt] + delta.text if begins else delta.text
        if not (text or ended or request.logprobs is not None or request.return_token_ids):
            return ""
        self._begun.add(choice.index)
        of_prompt = None if delta.admission is None else delta.admission.prompt_logprobs
        logprobs = self._shape(choice, delta.logprobs, of_prompt, begins)
        reason = f'"{delta.finish_reason}"' if ended else "null"
        prompt_ids, token_ids = "null", "null"
        if request.return_token_ids:
            token_ids = encode_json(delta.token_ids)
            if begins:
                prompt_ids = encode_json(self._prompts[choice.prompt].token_ids)
        return (
            f'{self._frame.start}{{"index":{choice.index},"text":{encode_text(text)},'
            f'"logprobs":{"null" if logprobs is None else encode_json(logprobs)},'
            f'"finish_reason":{reason},"stop_reason":{encode_json(delta.stop_reason)},'
            f'"prompt_token_ids":{prompt_ids},"token_ids":{token_ids}}}]'
            f"{self._frame.end(choices, ended)}"
        )

    def last(self, choices: Sequence[Choice]) -> str:
        return self._frame.last(choices)
