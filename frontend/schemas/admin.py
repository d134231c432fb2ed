"""What operators' routes take in their query, and what they answer."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, Field

from headrace.frontend.schemas.fields import (
    MAX_NAME_CHARS,
    Ignored,
    RequestModel,
    bad_value,
    unsupported,
)
from headrace.protocol.autoscaling import MOST_WORKERS

MAX_TIMEOUT_S = 24 * 3600.0


class ModelQuery(BaseModel):
    """model: a served name: only the workers of its group."""

    model: str | None = None


class PoolQuery(ModelQuery):
    """worker: only this one, by its name in
    /health?verbose or without the number of its start. verbose: what came of it at each worker."""

    worker: Annotated[str, Field(max_length=100)] | None = None
    verbose: bool = False


class SleepQuery(PoolQuery):
    """level: 1 gives back the caches and what accelerators hold of weights, 2 also the weights.
    mode: what becomes of requests in flight: "drain": they go on in workers that stay awake, if
    there are any, and are finished else; "wait": they are finished; "abort": they are ended.
    timeout: seconds that they have to be finished; after that, the worker stays awake.
    """

    level: Annotated[int, Field(ge=1, le=2)] = 1
    mode: Literal["drain", "wait", "abort"] = "drain"
    timeout: Annotated[float, Field(ge=0, le=MAX_TIMEOUT_S, allow_inf_nan=False)] = 60.0


class WakeQuery(PoolQuery):
    """tags: what to bring back; none: all."""

    tags: Annotated[list[Literal["weights", "kv_cache"]], Field(max_length=10)] = []


class ResetPrefixCacheQuery(PoolQuery):
    """reset_running_requests: what runs is run again from its first token, so that nothing of
    what was computed is used any more. device, reset_external: without effect, there is one cache.
    """

    reset_running_requests: bool = False
    device: Annotated[str, Field(max_length=100)] | None = None
    reset_external: bool = False


class ServerInfoQuery(PoolQuery):
    """config_format: the configuration as lines of name=value, or as an object."""

    config_format: Literal["text", "json"] = "text"


class StartProfileQuery(PoolQuery):
    """mode: "torch": what torch ran and when; "stacks": where all threads were in Python, sampled a
    hundred times a second."""

    mode: Literal["torch", "stacks"] = "torch"


class PauseQuery(PoolQuery):
    """mode: what becomes of what runs: "abort": it is ended; "wait": it is finished; "keep": it
    stops where it is, and goes on later. clear_cache: forget prefixes, not with "keep".
    timeout: seconds that it has to be finished; after that, the worker is not paused.
    wait_for_inflight_requests: the same as mode "wait".
    """

    mode: Literal["abort", "wait", "keep"] = "abort"
    clear_cache: bool = True
    timeout: Annotated[float, Field(ge=0, le=MAX_TIMEOUT_S, allow_inf_nan=False)] = 60.0
    wait_for_inflight_requests: bool = False


class AbortRequest(RequestModel):
    """request_ids: X-Request-Ids, or the ids of answers ("cmpl-..."); "all": every one."""

    request_ids: (
        Annotated[
            list[Annotated[str, Field(min_length=1, max_length=256)]], Field(max_length=10_000)
        ]
        | Literal["all"]
    )


class AbortReport(BaseModel):
    """aborted: the ids that there were. unknown: those that nobody has; they may have ended.
    count: of requests that were ended."""

    aborted: list[str]
    unknown: list[str]
    count: int


class RpcRequest(RequestModel):
    """A method of the workers and its arguments. timeout: seconds that they have to answer."""

    method: Annotated[str, Field(max_length=100)]
    args: Annotated[list[Any], Field(max_length=16, default_factory=list)]
    kwargs: Annotated[dict[str, Any], Field(max_length=16, default_factory=dict)]
    timeout: Annotated[float, Field(gt=0, le=MAX_TIMEOUT_S, allow_inf_nan=False)] | None = None


class RpcResults(BaseModel):
    """results: one for each worker, in the order of groups and places."""

    results: list[Any]


class WorkerReport(BaseModel):
    """What came of it at one worker. error: "" if all went well. seconds: how long it took."""

    name: str
    error: str
    seconds: float
    value: Any = None


class PoolReport(BaseModel):
    workers: list[WorkerReport]


class Success(BaseModel):
    success: bool


class ServerInfo(BaseModel):
    """vllm_config: text or an object. vllm_env: variables of the environment. system_env: versions.
    The names are the reference's."""

    vllm_config: str | dict[str, Any]
    vllm_env: dict[str, str]
    system_env: dict[str, str]


class IsSleeping(BaseModel):
    """Whether all the workers that were asked for sleep."""

    is_sleeping: bool


class ScaleRequest(BaseModel):
    """new_data_parallel_size: workers that the model is to have. drain_timeout: seconds in which
    requests of workers that go may end; what is left of them goes on elsewhere."""

    new_data_parallel_size: Annotated[int, Field(ge=0, le=MOST_WORKERS)]
    drain_timeout: Annotated[float, Field(ge=0, le=MAX_TIMEOUT_S, allow_inf_nan=False)] = 120.0


class AdapterQuery(ModelQuery):
    """timeout: seconds that workers have to load it, or requests that use it to end; after that, it
    is unloaded when they are over. verbose: what came of it at each worker."""

    verbose: bool = False
    timeout: Annotated[float, Field(gt=0, le=MAX_TIMEOUT_S, allow_inf_nan=False)] = 300.0


def _printable(name: str) -> str:
    if not name.isprintable():
        raise bad_value("must not hold control characters")
    return name


AdapterName = Annotated[
    str, Field(min_length=1, max_length=MAX_NAME_CHARS), AfterValidator(_printable)
]


class LoadAdapterRequest(RequestModel):
    """lora_path: a folder of the server's machine with the adapter in PEFT's format, or its id on
    the Hugging Face hub. load_inplace: take the place of an adapter of that name."""

    lora_name: AdapterName
    lora_path: Annotated[str, Field(min_length=1, max_length=4096)]
    load_inplace: bool = False
    is_3d_lora_weight: Annotated[bool, unsupported(False)] = False


class UnloadAdapterRequest(RequestModel):
    """lora_int_id: without effect."""

    lora_name: AdapterName
    lora_int_id: Ignored = None


class Scaled(BaseModel):
    message: str


class IsScaling(BaseModel):
    """Whether the pool, or the model that was asked for, becomes larger or smaller."""

    is_scaling_elastic_ep: bool


class PauseStatus(BaseModel):
    """paused or resumed."""

    status: str


class IsPaused(BaseModel):
    """Whether all the workers that were asked for are paused."""

    is_paused: bool
