"""One choice in progress: from tokens to text, until a stop string, a stop token or the limit."""

from typing import NamedTuple

from headrace.frontend.errors import error_of
from headrace.frontend.generation.request_times import RequestTimes
from headrace.frontend.metrics import RequestObserver
from headrace.frontend.text.detokenizer import Detokenizer
from headrace.frontend.text.stop_strings import StopMatcher
from headrace.protocol.to_frontend import Admission, Logprobs, Output

# The stop reason of a choice that ended because it repeated itself.
REPETITION_STOP_REASON = "repetition_detected"


class Delta(NamedTuple):
    """The addition of one output to a choice.

    text: the text to show; it may lag behind the tokens while they may be part of a stop string.
    token_ids, logprobs: of all tokens, shown or not, up to the one that ended the choice.
    finish_reason: None while the choice continues.
    stop_reason: the stop string or stop token that ended it.
    """

    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[Logprobs, ...]
    finish_reason: str | None = None
    stop_reason: str | int | None = None
    admission: Admission | None = None


class Choice:
    """One of the choices of a request.

    index: its index in the answer.
    prompt_index: which of the request's prompts it continues.
    min_tokens: output tokens in whose text no stop string may end.
    include_stop: whether a stop string, or the token that ended the choice, is shown.
    discard: whether the output is dropped because only the prompt must be run.
    times: what notes when outputs come; None: nothing.
    has_begun: whether an output has come.
    completion_tokens: those whose events have been read; the generation counts them.
    """

    def __init__(
        self,
        index: int,
        prompt_index: int,
        detokenizer: Detokenizer,
        matcher: StopMatcher,
        observer: RequestObserver,
        *,
        min_tokens: int = 0,
        include_stop: bool = False,
        discard: bool = False,
        times: RequestTimes | None = None,
    ) -> None:
        self.index = index
        self.times = times
        self.prompt = prompt_index
        self.completion_tokens = 0
        self.cached_tokens = 0
        self.written_tokens = 0
        self.finished = False
        self.has_begun = False
        self._detokenizer = detokenizer
        self._matcher = matcher
        self._observer = observer
        self._min_tokens = min_tokens
        self._include_stop = include_stop
        self._discard = discard
        self._is_plain = matcher.is_empty and not discard
        self._num_tokens = 0  # that have come

    def apply(self, output: Output) -> Delta:
        """Apply an output and return what it adds. Raises ApiError if it reports a failure."""
        if output.finish_reason is None and output.admission is None and self._is_plain:
            return self._continue(output)
        if (error := error_of(output)) is not None:
            raise error
        self.has_begun = True
        if output.admission is not None:
            self.cached_tokens = output.admission.cached_tokens
            self.written_tokens = output.admission.written_tokens
        text, num_tokens, stop = ("", 0, None) if self._discard else self._read(output)
        self._num_tokens += num_tokens
        self._observer.output(num_tokens, output.admission)
        if self.times is not None:
            self.times.output(num_tokens, output.admission)
        reason = "stop" if output.finish_reason == "complete" else output.finish_reason
        stop_reason: str | int | None = output.stop_token_id
        if self._discard and reason is not None:
            reason, stop_reason = "length", None
        if reason is not None and stop is None:
            rest, stop = self._flush()
            text += rest
        if stop is not None:
            reason = "stop"
        elif reason == "repetition":
            stop_reason = REPETITION_STOP_REASON
        if reason is not None:
            self.finish(reason)
        return Delta(
            text,
            output.token_ids[:num_tokens],
            (output.logprobs or ())[:num_tokens],
            reason,
            stop_reason if stop is None else stop,
            output.admission,
        )

    def _continue(self, output: Output) -> Delta:
        """Apply one of the outputs between the first and the last: nearly all of them."""
        token_ids = output.token_ids
        self._num_tokens += len(token_ids)
        self._observer.output(len(token_ids), None)
        if self.times is not None:
            self.times.output(len(token_ids), None)
        if len(token_ids) == 1:
            text = self._detokenizer.feed(token_ids[0])
        else:
            text = "".join(map(self._detokenizer.feed, token_ids))
        return Delta(text, token_ids, output.logprobs or ())

    def _read(self, output: Output) -> tuple[str, int, str | None]:
        """Return the text of an output, how many of its tokens count, and the stop string found."""
        token_ids = output.token_ids
        ends_with_token = output.finish_reason == "stop" and not self._include_stop
        num_shown = len(token_ids) - 1 if ends_with_token else len(token_ids)
        if self._matcher.is_empty:
            pieces = [self._detokenizer.feed(token_id) for token_id in token_ids[:num_shown]]
            return "".join(pieces), len(token_ids), None
        parts = []
        for count, token_id in enumerate(token_ids[:num_shown], start=1):
            piece = self._detokenizer.feed(token_id)
            if not piece:
                continue
            match = self._matcher.feed(piece, self._num_tokens + count > self._min_tokens)
            parts.append(match.text)
            if match.stop is not None:
                return "".join(parts), count, match.stop
        return "".join(parts), len(token_ids), None

    def _flush(self) -> tuple[str, str | None]:
        """Return the text that is still held back, and the stop string found in it."""
        if self._discard:
            return "", None
        may_stop = self._num_tokens > self._min_tokens
        match = self._matcher.feed(self._detokenizer.flush(), may_stop)
        if match.stop is not None:
            return match.text, match.stop
        return match.text + self._matcher.flush(), None

    def finish(self, reason: str) -> None:
        """Record the end of the choice. Only the first reason counts."""
        self.finished = True
        self._observer.finish(reason)

    def leave_unread(self, tokens: int) -> None:
        """Record that its client has left before it has read so many tokens."""
        self._observer.leave_unread(tokens)

    def note_client_wait(self, seconds: float) -> None:
        """Record how long its stream has had events that its client was not ready to take."""
        self._observer.note_client_wait(seconds)
