"""What an operator who asks for it finds in the log of each request: its prompts, and its texts.

Texts are written as Python writes strings: on one line, whatever they hold.
"""

import logging
from collections import defaultdict
from collections.abc import Sequence
from typing import Protocol

from headrace.frontend.generation.choice import Choice, Delta
from headrace.frontend.middleware import request_scope
from headrace.protocol.config import PoolOptions
from headrace.protocol.sampling import SamplingParams

# Of the sampling parameters, which can hold as many tokens as the vocabulary.
MAX_PARAMS_CHARS = 2000

log = logging.getLogger(__name__)


class LoggedPrompt(Protocol):
    @property
    def token_ids(self) -> tuple[int, ...]: ...

    @property
    def text(self) -> str | None: ...


class RequestLog:
    """Logs a request's prompts at once, and each text when it has ended, if that is wanted."""

    def __init__(
        self,
        config: PoolOptions,
        prompts: Sequence[LoggedPrompt],
        samplings: Sequence[SamplingParams],
    ) -> None:
        self._request_id = request_scope.current_request_id()
        self._with_outputs = config.enable_log_outputs
        self._longest = config.max_log_len
        self._texts: defaultdict[int, list[str]] = defaultdict(list)
        self._token_ids: defaultdict[int, list[int]] = defaultdict(list)
        for prompt, sampling in zip(prompts, samplings, strict=True):
            log.info(
                "received %s: prompt: %r, prompt_token_ids: %s, %s",
                self._request_id,
                None if prompt.text is None else prompt.text[: self._longest],
                list(prompt.token_ids[: self._longest]),
                repr(sampling)[:MAX_PARAMS_CHARS],
            )

    def add(self, choice: Choice, delta: Delta) -> None:
        """What has been added to one of the texts."""
        if not self._with_outputs:
            return
        texts, token_ids = self._texts[choice.index], self._token_ids[choice.index]
        texts.append(delta.text)
        token_ids.extend(delta.token_ids)
        if delta.finish_reason is not None:
            log.info(
                "answered %s: choice %d: %r, token_ids: %s, finish_reason: %s",
                self._request_id,
                choice.index,
                "".join(texts)[: self._longest],
                token_ids[: self._longest],
                delta.finish_reason,
            )
