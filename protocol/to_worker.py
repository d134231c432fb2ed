"""Messages to a worker: from frontends on its requests socket, from the coordinator on control."""

from headrace.protocol.codec import Codec, Message
from headrace.protocol.grammar import Grammar
from headrace.protocol.sampling import SamplingParams


class Generate(Message, tag=1):
    """Run a request.

    request_id: unique in the pool; outputs and aborts name it.
    prompt_token_ids: at least one, all within the model's vocabulary.
    output_token_ids: tokens that another worker has already produced (a replay); the text goes
        on after them, and they count towards max_tokens and penalties.
    priority: lower runs earlier.
    cache_salt: prefixes are shared only among requests of equal salt.
    adapter: name of a LoRA adapter, "" for the base model.
    tenant: whose request it is, for fairness.
    is_replay: whether another worker has had it: it is never refused for want of room.
    grammar: what the output must conform to; None: anything goes.
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


class Abort(Message, tag=2):
    """Forget these requests: their slots are free in the next step, and no more is sent of them."""

    request_ids: tuple[str, ...]


class FrontendGone(Message, tag=2):
    """From the coordinator: this frontend has died, forget all its requests."""

    frontend_id: str


class Introduce(Message, tag=1):
    """From a coordinator that does not know the sender: say hello again."""


class Call(Message, tag=3):
    """From the coordinator: do something and say what came of it (to_coordinator.CallResult).

    method: one of those that a worker has (workers/process/calls.py). arguments: a JSON object.
    others_are_awake: whether another worker of the group could take this one's requests.
    """

    call_id: str
    method: str
    arguments: str
    others_are_awake: bool


class Leave(Message, tag=4):
    """From the coordinator: the worker is needed no more. It ends as after SIGTERM; requests that
    are not finished in time go on elsewhere."""

    drain_timeout_s: float


RequestMessage = Generate | Abort
ControlMessage = Introduce | FrontendGone | Call | Leave

REQUESTS = Codec[RequestMessage](RequestMessage)
CONTROL = Codec[ControlMessage](ControlMessage)
