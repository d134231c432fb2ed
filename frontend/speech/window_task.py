"""Transcribe one window: attempts at its text until one passes the guards, then its words."""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from headrace.frontend.audio.messages import AudioWindow
from headrace.frontend.speech.guards import compression_ratio, is_steady
from headrace.frontend.speech.plan import SpeechPlan
from headrace.frontend.speech.rest_of_window import Part, rest_of
from headrace.frontend.speech.results import TextPiece, WindowResult, Word, WrittenToken
from headrace.frontend.speech.words import words_of
from headrace.frontend.speech.worker_requests import WorkerRequests, Written
from headrace.frontend.text.detokenizer import Detokenizer, join
from headrace.protocol.to_frontend import Output


@dataclass(frozen=True, slots=True)
class _Attempt:
    """A text for a window. is_silence: whether the window holds no speech, as it shows."""

    written: Written
    text: str
    ratio: float
    temperature: float
    is_silence: bool


class WindowTask:
    """The work on one window.

    pieces: of text that may be told before the window is finished. results: of its parts.
    is_finished: whether there will be no more of either. on_change: called when there are more.
    has_told: whether a piece has been read.
    """

    def __init__(
        self,
        requests: WorkerRequests,
        plan: SpeechPlan,
        window: AudioWindow,
        language: str,
        on_change: Callable[[], None],
    ) -> None:
        self._requests, self._plan, self._language = requests, plan, language
        self._window, self._on_change = window, on_change
        self._is_steady = is_steady(window.change_db)
        self.pieces: deque[TextPiece] = deque()
        self.results: deque[WindowResult] = deque()
        self.is_finished = False
        self.has_told = False

    async def run(self) -> None:
        """Transcribe the window."""
        live = _LiveText(self) if self._plan.is_live else None
        part: Part | None = Part(self._window)
        while part is not None:
            attempt = await self._attempt(part, live)
            rest, tokens = rest_of(part, attempt.written.tokens, self._plan)
            result = await self._result(part.window, attempt, tokens)
            if live is not None:
                live.finish(result)
            elif result.text:
                texts = [each for each in result.tokens if each.token_id < self.text_end]
                self.pieces.append(TextPiece(result.text, tuple(texts)))
            self.results.append(result)
            part = rest if result.tokens else None
        self.is_finished = True
        self._on_change()

    async def _attempt(self, part: Part, live: "_LiveText | None") -> _Attempt:
        """Return the first text that passes the guards, else the best."""
        guards, attempts = self._plan.guards, list[_Attempt]()
        for number, temperature in enumerate(self._plan.temperatures):
            on_output = None if live is None else live.add
            written = await self._requests.write(part, self._language, number, on_output=on_output)
            text = self.decode([each.token_id for each in written.tokens])
            ratio = compression_ratio(text)
            # 0 for a model that tells none.
            silence = written.no_speech_prob or 0.0
            logprob = written.avg_logprob
            is_rejected = written.repeats or guards.rejects(ratio, logprob)
            is_silence = guards.is_silence(silence, logprob) or (
                self._is_steady and guards.is_steady_noise(silence, logprob, is_rejected)
            )
            attempts.append(_Attempt(written, text, ratio, temperature, is_silence))
            if is_silence or not is_rejected:
                return attempts[-1]
            is_last = number == len(self._plan.temperatures) - 1
            if guards.is_noise(silence, len(attempts), is_last):
                return replace(attempts[-1], is_silence=True)
            if not is_last:
                self._requests.count_fallback()
        return self._best(attempts)

    def decode(self, token_ids: Sequence[int]) -> str:
        """Return the text of tokens, without times."""
        end = self._plan.tokens.end
        return join(self.detokenizer(), [each for each in token_ids if each < end])

    def detokenizer(self) -> Detokenizer:
        return self._plan.model.tokenizer.detokenizer(skip_special_tokens=True)

    def tell(self, piece: TextPiece) -> None:
        """Make a piece of text known."""
        self.pieces.append(piece)
        self._on_change()

    def may_be_silent(self, no_speech_prob: float | None) -> bool:
        return self._plan.guards.may_be_silence(no_speech_prob or 0.0, self._is_steady)

    @property
    def text_end(self) -> int:
        """The id that ends those of texts."""
        return self._plan.tokens.end

    def _best(self, attempts: Sequence[_Attempt]) -> _Attempt:
        """Return the likeliest text, of those that do not repeat themselves if there is one."""
        limit = self._plan.guards.compression_ratio
        fit = [each for each in attempts if each.ratio <= limit and not each.written.repeats]
        fit = fit or list(attempts)
        return max(fit, key=lambda each: each.written.avg_logprob)

    async def _result(
        self, window: AudioWindow, attempt: _Attempt, tokens: tuple[WrittenToken, ...]
    ) -> WindowResult:
        written = attempt.written
        if attempt.is_silence:
            tokens = ()
        return WindowResult(
            start_s=window.start_s,
            duration_s=window.duration_s,
            tokens=tokens,
            text=attempt.text if tokens else "",
            temperature=attempt.temperature,
            avg_logprob=written.avg_logprob,
            compression_ratio=attempt.ratio,
            no_speech_prob=written.no_speech_prob,
            words=await self._words(window, tokens),
        )

    async def _words(self, window: AudioWindow, tokens: Sequence[WrittenToken]) -> tuple[Word, ...]:
        ids = [each.token_id for each in tokens if each.token_id < self.text_end]
        if not (self._plan.has_words and ids):
            return ()
        starts_s = await self._requests.align(window, self._language, ids)
        return words_of(
            ids, starts_s, self._language, self.decode, window.start_s, window.duration_s
        )


class _LiveText:
    """Tells a text while it is written; one that may be of silence when it is finished."""

    def __init__(self, task: WindowTask) -> None:
        self._task, self._detokenizer = task, task.detokenizer()
        self._is_held = False
        # That has not been told.
        self._text = ""
        self._tokens: list[WrittenToken] = []

    def add(self, output: Output) -> None:
        if output.admission is not None:
            self._is_held = self._task.may_be_silent(output.admission.no_speech_prob)
        for each in output.logprobs or ():
            if each.token_id < self._task.text_end:
                self._text += self._detokenizer.feed(each.token_id)
                self._tokens.append(WrittenToken(each.token_id, each.logprob))
        if not self._is_held:
            self._tell()

    def finish(self, result: WindowResult) -> None:
        """Tell what has been held back, unless it proved to be of silence."""
        if result.tokens:
            self._text += self._detokenizer.flush()
            self._tell()

    def _tell(self) -> None:
        if self._text:
            self._task.tell(TextPiece(self._text, tuple(self._tokens)))
            self._text, self._tokens = "", []
