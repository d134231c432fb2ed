"""The answers of /v1/completions.

Chunks are put together from parts that are JSON already; per token only its text is encoded.
"""

from collections.abc import Sequence
from typing import Any

from frontend.answers.common import Head, encode_json, usage
from frontend.answers.logprobs import CompletionLogprobs, TokenNames, prompt_logprobs
from frontend.generation.choice import Choice, Delta
from frontend.generation.run import Collected
from frontend.generation.start import Prompt
from frontend.schemas.completion import CompletionRequest
from frontend.text.offsets import output_offsets, prompt_offsets
from protocol.to_frontend import Logprobs


class CompletionAnswer:
    """The answer to one request, whole or in chunks.

    echoes: for each prompt, the text that its completions begin with; "" if none is wanted.
    """

    def __init__(
        self,
        head: Head,
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
        start = {
            "id": head.answer_id,
            "object": "text_completion",
            "created": head.created,
            "model": head.model,
        }
        self._chunk_start = f'data: {encode_json(start)[:-1]},"choices":['
        self._fingerprint = f',"system_fingerprint":{encode_json(head.fingerprint)}'

    # A whole answer

    def whole(self, texts: Sequence[Collected]) -> dict[str, Any]:
        """The body of an answer in one piece."""
        return {
            "id": self._head.answer_id,
            "object": "text_completion",
            "created": self._head.created,
            "model": self._head.model,
            "choices": [self._choice(text) for text in texts],
            "service_tier": None,
            "system_fingerprint": self._head.fingerprint,
            "usage": usage(self._prompts, [text.choice for text in texts]),
        }

    def _choice(self, text: Collected) -> dict[str, Any]:
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
            shapes = CompletionLogprobs(self._names, self._request.logprobs, offsets)
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
        request = self._request
        ended = delta.finish_reason is not None
        begins = choice.index not in self._begun
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
            f'{self._chunk_start}{{"index":{choice.index},"text":{encode_json(text)},'
            f'"logprobs":{"null" if logprobs is None else encode_json(logprobs)},'
            f'"finish_reason":{reason},"stop_reason":{encode_json(delta.stop_reason)},'
            f'"prompt_token_ids":{prompt_ids},"token_ids":{token_ids}}}]'
            f"{self._after_choices(choices, ended)}}}\n\n"
        )

    def _after_choices(self, choices: Sequence[Choice], ended: bool) -> str:
        request = self._request
        so_far = ""
        if request.usage_in_chunks:
            so_far = f',"usage":{encode_json(usage(self._prompts, choices))}'
        return so_far + (self._fingerprint if ended and not request.usage_in_stream else "")

    def last(self, choices: Sequence[Choice]) -> str:
        """The chunk after all texts: the usage, if it was asked for."""
        if not self._request.usage_in_stream:
            return ""
        counted = encode_json(usage(self._prompts, choices))
        return f'{self._chunk_start}],"usage":{counted}{self._fingerprint}}}\n\n'
