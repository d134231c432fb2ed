"""Log the prompts and outputs of requests, for operators who enable it.

Texts are logged as Python literals, so that each entry is one line.
"""

import logging
from collections import defaultdict
from collections.abc import Sequence
from typing import Protocol

from headrace.frontend.generation.choice import Choice, Delta
from headrace.frontend.middleware import request_scope
from headrace.protocol.config import PoolOptions

# Of the sampling parameters, which may hold as many token ids as the vocabulary.
MAX_PARAMS_CHARS = 2000

log = logging.getLogger("headrace.frontend.requests")


class LoggedPrompt(Protocol):
    """The parts of a prompt that are logged."""

    @property
    def token_ids(self) -> tuple[int, ...]: ...

    @property
    def text(self) -> str | None: ...


class RequestLog:
    """Logs the prompts of a request at once, and each choice when it has ended, if enabled."""

    def __init__(
        self,
        config: PoolOptions,
        prompts: Sequence[LoggedPrompt],
        params: Sequence[object],
    ) -> None:
        self._request_id = request_scope.current_request_id()
        self._logs_outputs = config.enable_log_outputs
        self._max_len = config.max_log_len
        self._texts: defaultdict[int, list[str]] = defaultdict(list)
        self._token_ids: defaultdict[int, list[int]] = defaultdict(list)
        for prompt, asked in zip(prompts, params, strict=True):
            log.info(
                "received %s: prompt: %r, prompt_token_ids: %s, %s",
                self._request_id,
                None if prompt.text is None else prompt.text[: self._max_len],
                list(prompt.token_ids[: self._max_len]),
                repr(asked)[:MAX_PARAMS_CHARS],
            )

    def add(self, choice: Choice, delta: Delta) -> None:
        """Collect what was added to a choice, and log the choice at its end."""
        if not self._logs_outputs:
            return
        texts, token_ids = self._texts[choice.index], self._token_ids[choice.index]
        texts.append(delta.text)
        token_ids.extend(delta.token_ids)
        if delta.finish_reason is not None:
            log.info(
                "answered %s: choice %d: %r, token_ids: %s, finish_reason: %s",
                self._request_id,
                choice.index,
                "".join(texts)[: self._max_len],
                token_ids[: self._max_len],
                delta.finish_reason,
            )
