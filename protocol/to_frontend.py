"""Messages to a frontend: tokens from workers, calls from the coordinator."""

from typing import Literal

from headrace.protocol.call_results import AnyResult
from headrace.protocol.calls import ABSENT, CallToFrontends, ErrorKind
from headrace.protocol.codec import Codec, Message
from headrace.protocol.to_worker import Introduce

# Why a request has ended.
FinishReason = Literal["stop", "length", "repetition", "complete", "rejected", "error"]

# Reason of a worker that would reject any other request as well.
QUEUE_FULL = "the queue is full"


class Logprobs(Message):
    """Log probabilities at one position.

    token_id, logprob, rank: of the token at the position (rank 1 is the likeliest).
    top_token_ids, top_logprobs: of the N likeliest tokens, likeliest first; or of the tokens that
        the request names, in its order.
    """

    token_id: int
    logprob: float
    rank: int
    top_token_ids: tuple[int, ...] = ()
    top_logprobs: tuple[float, ...] = ()


class Admission(Message):
    """Facts that are known once a request's prompt has been computed; sent with its first output.

    cached_tokens: prompt tokens found in the prefix cache.
    queue_s, prefill_s: seconds from arrival to first scheduling, and from there to the first token.
    prompt_logprobs: for the prompt's tokens from the second on, if they were asked for.
    engine: the number of the worker's replica slot, for metrics; "" if it is unknown.
    written_tokens: prompt tokens computed and kept in the prefix cache, for later prompts.
    no_speech_prob: of the token that an AudioInput names; None: it names none.
    token_starts: when the tokens that an Alignment asks for begin, in seconds from the start of the
        window, and when the last of them ends.
    """

    cached_tokens: int
    queue_s: float
    prefill_s: float
    prompt_logprobs: tuple[Logprobs, ...] | None = None
    engine: str = ""
    written_tokens: int = 0
    no_speech_prob: float | None = None
    token_starts: tuple[float, ...] = ()


class Pooled(Message):
    """The numbers of a text: `shape` of them, in the byte order of this machine."""

    data: bytes
    shape: tuple[int, ...]


class Output(Message):
    """The output of one engine step for one request.

    Without tokens it reports that the worker has received a replay.

    position: output tokens before `token_ids`, replayed ones included.
    finish_reason: None while the request runs. "stop": the last token ended it. "complete": the
        last token reached the end of its grammar. "rejected": it cannot continue as it asks.
    stop_token_id: which of the request's stop_token_ids ended it.
    logprobs: one for each of `token_ids`, if they were asked for.
    error: what went wrong if finish_reason is "rejected" or "error"; fit to be shown to a client.
    pooled: the numbers that an Encode asks for, whose only output has them.
    """

    request_id: str
    token_ids: tuple[int, ...]
    position: int
    finish_reason: FinishReason | None = None
    stop_token_id: int | None = None
    logprobs: tuple[Logprobs, ...] | None = None
    admission: Admission | None = None
    error: str | None = None
    pooled: Pooled | None = None


class StepOutputs(Message, tag=1):
    """The outputs of one engine step for one frontend.

    number: counts the messages from this worker to this frontend, from 0; a gap means that one
        was lost: the frontend then replays all requests that the worker runs for it.
    """

    worker_id: str
    number: int
    outputs: tuple[Output, ...]


class Rejected(Message, tag=2):
    """The worker rejects a request; numbered with the StepOutputs.

    retry_elsewhere: true if another worker may accept it (full, draining), false if the request is
        invalid.
    retry_after_s: when this worker may have capacity again; 0: unknown.
    """

    worker_id: str
    number: int
    request_id: str
    reason: str
    retry_elsewhere: bool
    retry_after_s: float = 0.0


class Aborted(Message, tag=3):
    """The worker has ended requests on an operator's behalf; numbered with the others.

    reason: fit to be shown to a client.
    """

    worker_id: str
    number: int
    request_ids: tuple[str, ...]
    reason: str


class CallAnswer(Message):
    """The outcome of a call at one worker or frontend. value: None if it failed. error: why it
    failed; "" if it succeeded. seconds: how long it took."""

    process_id: str
    value: AnyResult | None
    error: str
    seconds: float


class PoolResult(Message, tag=2):
    """From the coordinator: the outcome of a PoolCall, process by process.

    error: why it failed as a whole, or was not even tried; "" if it succeeded. kind: of the error.
    value: of calls that the coordinator answers for the whole target.
    """

    call_id: str
    answers: tuple[CallAnswer, ...]
    error: str = ""
    kind: ErrorKind = ABSENT
    value: AnyResult | None = None


class FrontendCall(Message, tag=3):
    """From the coordinator: execute a call and report the outcome (to_coordinator.CallResult)."""

    call_id: str
    call: CallToFrontends


OutputMessage = StepOutputs | Rejected | Aborted
ControlMessage = Introduce | PoolResult | FrontendCall

OUTPUTS = Codec[OutputMessage](OutputMessage)
CONTROL = Codec[ControlMessage](ControlMessage)
