"""Run a window's requests on workers: language, text, and when each token is spoken."""

import asyncio
import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from headrace.frontend.audio.messages import AudioFormat, AudioWindow
from headrace.frontend.context import Context
from headrace.frontend.errors import FAILURE, InternalError, error_of
from headrace.frontend.generation.ownership import new_request_id
from headrace.frontend.generation.sampling import choice_seed
from headrace.frontend.pool.interface import OutputStream, PoolBusy
from headrace.frontend.speech.guards import REPETITION
from headrace.frontend.speech.plan import SpeechPlan
from headrace.frontend.speech.rest_of_window import MAX_PARTS, Part
from headrace.frontend.speech.results import UsedTokens, WrittenToken
from headrace.frontend.speech.window_beams import WindowBeamSearch
from headrace.protocol.sampling import SamplingParams
from headrace.protocol.speech import Alignment, AudioInput, TimestampRule
from headrace.protocol.to_frontend import Admission, Output
from headrace.protocol.to_worker import Generate

_MAX_ATTEMPTS = 8  # at one part of a window
OnOutput = Callable[[Output], None]


def audio_format(plan: SpeechPlan) -> AudioFormat:
    """Return the features that the plan's model takes."""
    return AudioFormat(mel_bins=plan.info.mel_bins, window_s=int(plan.info.window_s))


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose requests they are. priority: lower runs earlier."""

    tenant: str
    user: str
    priority: int


@dataclass(frozen=True, slots=True)
class Written:
    """An output. end_logprob: of its end, if the model has ended it. repeats: whether it was ended
    because it repeats itself."""

    tokens: tuple[WrittenToken, ...]
    end_logprob: float
    repeats: bool
    no_speech_prob: float | None

    @property
    def avg_logprob(self) -> float:
        """The mean of all tokens, the end included."""
        total = sum(each.logprob for each in self.tokens) + self.end_logprob
        return total / (len(self.tokens) + 1)


class WorkerRequests:
    """The requests of one recording.

    used: counts their tokens. num_running: of those that run now.
    """

    def __init__(self, context: Context, plan: SpeechPlan, owner: Owner) -> None:
        self._context, self._plan, self._owner = context, plan, owner
        self.used = UsedTokens()
        self._num_running = 0

    def count_window(self, seconds: float) -> None:
        """Count a window that is sent to workers."""
        self._context.metrics.audio.count_window(self._model_name, seconds)

    def count_fallback(self) -> None:
        """Count a text that is rejected for another one."""
        self._context.metrics.audio.count_fallback(self._model_name)

    @property
    def _model_name(self) -> str:
        return self._plan.model.group.served_names[0]

    async def detect_language(self, window: AudioWindow) -> str:
        """Return the code of the language that a window is most likely in."""
        languages = self._plan.tokens.languages
        sampling = SamplingParams(
            seed=0, max_tokens=1, temperature=0.0, allowed_token_ids=tuple(languages.values())
        )
        prompt = (self._plan.tokens.start,)
        tokens, _ = await self._run(self._message(prompt, sampling, self._audio(window)))
        codes = {token_id: code for code, token_id in languages.items()}
        code = codes.get(tokens[0]) if tokens else None
        if code is None:
            raise InternalError(FAILURE)
        return code

    async def write(
        self,
        part: Part,
        language: str,
        attempt: int,
        on_output: OnOutput | None = None,
    ) -> Written:
        """Return a text for a part of a window, at one of the plan's temperatures."""
        plan = self._plan
        prompt = plan.prompt(language)
        room = plan.info.positions - len(prompt)
        sampling = replace(
            plan.sampling,
            seed=choice_seed(plan.sampling.seed, _number_of(part, attempt)),
            max_tokens=min(room, plan.max_tokens or room),
            temperature=plan.temperatures[attempt],
            # The last attempt's text counts, whatever it is.
            repetition_detection=REPETITION if attempt < len(plan.temperatures) - 1 else None,
        )
        rule = TimestampRule(plan.tokens.first_timestamp, plan.info.max_initial_timestamp)
        audio = replace(
            self._audio(part.window),
            suppressed_ids=plan.info.suppressed_ids,
            first_suppressed_ids=plan.info.first_suppressed_ids,
            timestamps=rule if plan.has_timestamps else None,
            no_speech_id=plan.tokens.no_speech,
            no_speech_position=len(plan.previous),
        )
        outputs: list[Output] = []

        def collect(output: Output) -> None:
            outputs.append(output)
            if on_output is not None:
                on_output(output)

        await self._run(self._message(prompt, sampling, audio), collect)
        return _written(outputs, plan.tokens.end)

    async def align(
        self, window: AudioWindow, language: str, token_ids: Sequence[int]
    ) -> Sequence[float]:
        """Return when each of a text's tokens begins, and last when the text ends, in seconds from
        the start of the window."""
        plan = self._plan
        start = (*plan.start(language), plan.tokens.no_timestamps)
        room = plan.info.positions - len(start) - 2  # the end, and the token that is generated
        prompt = (*start, *token_ids[:room], plan.tokens.end)
        frames = min(plan.info.frames // 2, math.ceil(window.duration_s / plan.tokens.step_s))
        audio = replace(self._audio(window), alignment=Alignment(len(start), max(1, frames)))
        sampling = SamplingParams(seed=0, max_tokens=1, temperature=0.0)
        _, admission = await self._run(self._message(prompt, sampling, audio))
        # The end has a time as well, of which only the beginning matters.
        starts_s = () if admission is None else admission.token_starts[: len(token_ids) + 1]
        if not starts_s:
            raise InternalError(FAILURE)
        return (*starts_s, *[starts_s[-1]] * (len(token_ids) + 1 - len(starts_s)))

    def _audio(self, window: AudioWindow) -> AudioInput:
        # What is made of a recording is used again only for clients that share caches.
        key = self._plan.model.salted("").encode()
        digest = hashlib.blake2b(key + window.features, digest_size=16).digest()
        return AudioInput(features=window.features, digest=digest)

    def _message(
        self, prompt: tuple[int, ...], sampling: SamplingParams, audio: AudioInput
    ) -> Generate:
        model, owner = self._plan.model, self._owner
        return Generate(
            request_id=new_request_id(),
            prompt_token_ids=prompt,
            sampling=sampling,
            priority=owner.priority,
            cache_salt=model.salted(""),
            adapter=model.adapter,
            tenant=owner.tenant,
            user=owner.user,
            audio=audio,
        )

    async def _run(
        self, message: Generate, on_output: OnOutput | None = None
    ) -> tuple[list[int], Admission | None]:
        """Run a request to its end; return its tokens. While others of the recording run, a full
        pool is waited for."""
        while True:
            self._num_running += 1
            try:
                return await self._run_once(message, on_output)
            except PoolBusy as busy:
                if self._num_running == 1:
                    raise
                retry_after_s = busy.retry_after_s
            finally:
                self._num_running -= 1
            await asyncio.sleep(retry_after_s)
            message = replace(message, request_id=new_request_id())

    async def _run_once(
        self, message: Generate, on_output: OnOutput | None
    ) -> tuple[list[int], Admission | None]:
        observer = self._context.metrics.request(
            self._model_name,
            len(message.prompt_token_ids),
            1,
            message.sampling.max_tokens,
            tenant=message.tenant,
            named_by_client=self._context.principal.key is None,
        )
        stream = self._stream(message)
        token_ids: list[int] = []
        admission: Admission | None = None
        reason = "error"
        try:
            async for output in stream:
                if (error := error_of(output)) is not None:
                    raise error
                admission = admission or output.admission
                self._count(message, output, is_first=not token_ids)
                observer.output(len(output.token_ids), output.admission)
                token_ids += output.token_ids
                if on_output is not None:
                    on_output(output)
                if output.finish_reason is not None:
                    reason = "stop" if output.finish_reason == "complete" else output.finish_reason
                    return token_ids, admission
            raise InternalError(FAILURE)
        except asyncio.CancelledError:
            reason = "abort"
            raise
        finally:
            if reason in ("abort", "error"):
                stream.cancel()
            observer.finish(reason)

    def _stream(self, message: Generate) -> OutputStream:
        """Return the outputs of a request: a worker's, or those of a search."""
        plan = self._plan
        generate = partial(self._context.pool.generate, plan.model.group.name)
        # Of attempts at a text, the one without chance.
        has_beams = message.sampling.logprobs is not None and message.sampling.temperature == 0
        if not has_beams or plan.beams == 1:
            return generate(message)
        search = WindowBeamSearch(
            message, plan.beams, plan.length_penalty, generate, new_request_id
        )
        best, *others = search.streams()
        for other in others:
            other.cancel()
        return best

    def _count(self, message: Generate, output: Output, is_first: bool) -> None:
        if is_first and output.token_ids:
            self.used.prompt += len(message.prompt_token_ids)
            self.used.has_begun = True
        self.used.output += len(output.token_ids)


def _number_of(part: Part, attempt: int) -> int:
    """Return a number that only this attempt of a recording has."""
    return (part.window.index * MAX_PARTS + part.number) * _MAX_ATTEMPTS + attempt


def _written(outputs: Sequence[Output], end: int) -> Written:
    """Return what the outputs of a request say together."""
    logprobs = [each for output in outputs for each in output.logprobs or ()]
    tokens = [WrittenToken(each.token_id, each.logprob) for each in logprobs]
    last = tokens.pop() if tokens and tokens[-1].token_id == end else None
    admissions = [each.admission for each in outputs if each.admission is not None]
    return Written(
        tuple(tokens),
        last.logprob if last is not None else 0.0,
        outputs[-1].finish_reason == "repetition",
        admissions[0].no_speech_prob if admissions else None,
    )
