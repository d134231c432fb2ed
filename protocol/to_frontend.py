"""Messages to a frontend: tokens from workers, calls from the coordinator."""

from headrace.protocol.codec import Codec, Message
from headrace.protocol.to_worker import Introduce

# Why a worker refuses that would refuse any other request just as well.
QUEUE_FULL = "the queue is full"


class Logprobs(Message):
    """Log probabilities at one position.

    token_id, logprob, rank: of the token that stands there (rank 1 is the likeliest).
    top_token_ids, top_logprobs: of the N likeliest, likeliest first; or of the tokens that the
        request names, in its order.
    """

    token_id: int
    logprob: float
    rank: int
    top_token_ids: tuple[int, ...] = ()
    top_logprobs: tuple[float, ...] = ()


class Admission(Message):
    """What is known once a request's prompt has been run; sent with its first output.

    cached_tokens: how many of the prompt's tokens came from the prefix cache.
    queue_s, prefill_s: seconds from arrival to first scheduling, and from there to the first token.
    prompt_logprobs: for the prompt's tokens from the second on, if they were asked for.
    """

    cached_tokens: int
    queue_s: float
    prefill_s: float
    prompt_logprobs: tuple[Logprobs, ...] | None = None


class Output(Message):
    """What one engine step added to one request; or, of a replay and without any tokens, that its
    worker has it.

    position: how many output tokens came before `token_ids` (replayed ones included).
    finish_reason: None while the request goes on; "stop", "length", "repetition", "complete",
        "rejected" or "error" end it. Of "stop" the last token is what ended the text; a "complete"
        text has reached the end of its grammar with its last token; "rejected" is one that nobody
        could go on with as the request asks.
    stop_token_id: which of the request's stop_token_ids ended it.
    logprobs: one for each of `token_ids`, if they were asked for.
    error: what went wrong, when finish_reason is "rejected" or "error"; fit to be shown to
        a client.
    """

    request_id: str
    token_ids: tuple[int, ...]
    position: int
    finish_reason: str | None = None
    stop_token_id: int | None = None
    logprobs: tuple[Logprobs, ...] | None = None
    admission: Admission | None = None
    error: str | None = None


class StepOutputs(Message, tag=1):
    """All that one engine step produced for one frontend.

    number: counts the messages from this worker to this frontend, from 0; a gap means that one
        was lost, and what the worker runs for the frontend is run again from what is known.
    """

    worker_id: str
    number: int
    outputs: tuple[Output, ...]


class Refused(Message, tag=2):
    """The worker does not take the request; numbered with the StepOutputs.

    retry_elsewhere: true if another worker may take it (full, draining), false if the request
        itself is at fault.
    retry_after_s: when this worker may have room again, as far as it knows; 0: it does not.
    """

    worker_id: str
    number: int
    request_id: str
    reason: str
    retry_elsewhere: bool
    retry_after_s: float = 0.0


class Aborted(Message, tag=3):
    """The worker has ended requests because an operator wanted it so; numbered with the others.

    reason: fit to be shown to a client.
    """

    worker_id: str
    number: int
    request_ids: tuple[str, ...]
    reason: str


class WorkerAnswer(Message):
    """What came of a call to one worker, or one frontend. value: JSON; error: "" if it did not
    fail. seconds: how long it took."""

    worker_id: str
    value: str
    error: str
    seconds: float


# Kinds of errors: nobody was there to be called, it took too long, something else is being done, it
# could not be done; or what was asked for can never be done, there is no such thing, or it is not
# fit for that.
ABSENT, TIMEOUT, CONFLICT, FAILED = "absent", "timeout", "conflict", "failed"
INVALID, MISSING, UNFIT = "invalid", "missing", "unfit"


class PoolResult(Message, tag=2):
    """From the coordinator: what came of a PoolCall, worker by worker.

    error: why it was not done, or not even tried; "" if it was. kind: of the error.
    value: JSON, of calls that no worker answers.
    """

    call_id: str
    answers: tuple[WorkerAnswer, ...]
    error: str = ""
    kind: str = ABSENT
    value: str = ""


class FrontendCall(Message, tag=3):
    """From the coordinator: do something and say what came of it (to_coordinator.CallResult).

    method, arguments: as of to_worker.Call; the methods are the frontends' own.
    """

    call_id: str
    method: str
    arguments: str


OutputMessage = StepOutputs | Refused | Aborted
ControlMessage = Introduce | PoolResult | FrontendCall

OUTPUTS = Codec[OutputMessage](OutputMessage)
CONTROL = Codec[ControlMessage](ControlMessage)
