"""Messages to a worker: from frontends on its requests socket, from the coordinator on control."""

from typing import Final

from headrace.protocol.calls import CallToWorkers
from headrace.protocol.codec import Codec, Message
from headrace.protocol.grammar import Grammar
from headrace.protocol.pooling import NumberFormat, PoolingTask
from headrace.protocol.sampling import SamplingParams
from headrace.protocol.speech import AudioInput

# The priority of batches' lines: after all that a client can ask for (frontend/schemas/).
BATCH_PRIORITY: Final = 2**31


class Generate(Message, tag=1):
    """Run a request.

    request_id: unique in the pool; outputs and aborts name it.
    prompt_token_ids: at least one, all within the model's vocabulary.
    output_token_ids: tokens that another worker has already generated (a replay); the output
        continues after them, and they count towards max_tokens and penalties.
    priority: lower runs earlier.
    cache_salt: prefixes are shared only among requests with the same salt.
    adapter: id of a LoRA adapter; "": the base model.
    tenant: owner of the request, for fairness.
    is_replay: whether another worker has had it: it is not rejected when the queue is full.
    grammar: what the output must match; None: unconstrained.
    user: whose the request is among those of its tenant, for fairness within it.
    audio: what a model that transcribes listens to, and only such a model; None: nothing.
    """

    request_id: str
    prompt_token_ids: tuple[int, ...]
    sampling: SamplingParams
    output_token_ids: tuple[int, ...] = ()
    priority: int = 0
    cache_salt: str = ""
    adapter: str = ""
    tenant: str = ""
    is_replay: bool = False
    grammar: Grammar | None = None
    user: str = ""
    audio: AudioInput | None = None


class Encode(Message, tag=3):
    """Turn a text into numbers, on a model that pools.

    request_id, priority, adapter, tenant, is_replay, user: as of Generate.
    prompt_token_ids: at least one, all within the model's vocabulary; the whole text.
    token_type_ids: of each token, for models that tell a pair's texts apart; empty: all are 0.
    prompt_length: how many of the first tokens pooling leaves out.
    dimensions: how many of an embedding's numbers to keep; None: all.
    activates: whether embeddings are normalized, and labels' scores are probabilities; None: as the
        model's authors say.
    number_format: of the numbers in the answer.
    route: the kind of the text, for models that pool texts of some kinds in other ways.
    compared_with: vectors of another text's tokens, as Pooled has them (float32). The answer is
        then one number: for each of them the highest product with one of this text's, added up.
    """

    request_id: str
    prompt_token_ids: tuple[int, ...]
    task: PoolingTask
    token_type_ids: tuple[int, ...] = ()
    prompt_length: int = 0
    dimensions: int | None = None
    activates: bool | None = None
    number_format: NumberFormat = "float32"
    compared_with: bytes = b""
    route: str = ""
    priority: int = 0
    adapter: str = ""
    tenant: str = ""
    is_replay: bool = False
    user: str = ""

    @property
    def output_token_ids(self) -> tuple[int, ...]:
        """Return the tokens that have been generated: none."""
        return ()


class Abort(Message, tag=2):
    """Drop these requests: their slots are free in the next step, and no more output is sent."""

    request_ids: tuple[str, ...]


class FrontendGone(Message, tag=2):
    """From the coordinator: this frontend has died; drop all its requests."""

    frontend_id: str


class Introduce(Message, tag=1):
    """From a coordinator that does not know the receiver: say hello again."""


class WorkerCall(Message, tag=3):
    """From the coordinator: execute a call and report the outcome (to_coordinator.CallResult)."""

    call_id: str
    call: CallToWorkers


class DrainWorker(Message, tag=4):
    """From the coordinator: the worker is not needed any more. It drains and ends as after SIGTERM;
    requests that are not finished in time fail over to other workers."""

    drain_timeout_s: float


# What engines run. Queues, limits, fairness and failover read what both have.
EngineRequest = Generate | Encode
RequestMessage = Generate | Encode | Abort
ControlMessage = Introduce | FrontendGone | WorkerCall | DrainWorker

REQUESTS = Codec[RequestMessage](RequestMessage)
CONTROL = Codec[ControlMessage](ControlMessage)
