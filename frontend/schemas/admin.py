"""The queries, bodies and responses of the admin routes."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from headrace.frontend.schemas.fields import (
    MAX_NAME_CHARS,
    Ignored,
    StrictRequestModel,
    bad_value,
    unsupported,
)
from headrace.protocol.autoscaling import MOST_WORKERS

MAX_TIMEOUT_S = 24 * 3600.0


class ModelQuery(BaseModel):
    """A selection of workers by model.

    model: a served name; only the workers of its group.
    """

    model: str | None = None


class PoolQuery(ModelQuery):
    """A selection of workers, and of the contents of the answer.

    worker: only this worker, by its name in /health?verbose, with or without its restart number.
    verbose: return the result of each worker.
    """

    worker: Annotated[str, Field(max_length=100)] | None = None
    verbose: bool = False


class SleepQuery(PoolQuery):
    """The level of sleep.

    level: 1 releases the caches and the accelerator's copy of the weights, 2 also the weights.
    mode: what happens to requests in flight: "drain": they move to workers that stay awake, or
        finish if there are none; "wait": they finish; "abort": they are aborted.
    timeout: seconds for them to finish; after that, the worker stays awake.
    """

    level: Annotated[int, Field(ge=1, le=2)] = 1
    mode: Literal["drain", "wait", "abort"] = "drain"
    timeout: Annotated[float, Field(ge=0, le=MAX_TIMEOUT_S, allow_inf_nan=False)] = 60.0


class WakeQuery(PoolQuery):
    """The memory to restore.

    tags: what to restore; empty: everything.
    """

    tags: Annotated[list[Literal["weights", "kv_cache"]], Field(max_length=10)] = []


class ResetPrefixCacheQuery(PoolQuery):
    """Options of emptying the prefix cache.

    reset_running_requests: recompute running requests from their first token, so that nothing
    computed before is used any more.
    device, reset_external: without effect; there is one cache.
    """

    reset_running_requests: bool = False
    device: Annotated[str, Field(max_length=100)] | None = None
    reset_external: bool = False


class ServerInfoQuery(PoolQuery):
    """Options of showing the configuration.

    config_format: the configuration as lines of name=value, or as an object.
    """

    config_format: Literal["text", "json"] = "text"


class StartProfileQuery(PoolQuery):
    """The kind of profile.

    mode: "torch" records what torch runs; "stacks" samples the Python stacks of all threads a
    hundred times a second.
    """

    mode: Literal["torch", "stacks"] = "torch"


class PauseQuery(PoolQuery):
    """Options of a pause.

    mode: what happens to running requests: "abort": they are aborted; "wait": they finish;
    "keep": they stop where they are and continue later.
    clear_cache: clear the prefix cache; not with "keep".
    timeout: seconds for requests to finish; after that, the worker is not paused.
    wait_for_inflight_requests: the same as mode "wait".
    """

    mode: Literal["abort", "wait", "keep"] = "abort"
    clear_cache: bool = True
    timeout: Annotated[float, Field(ge=0, le=MAX_TIMEOUT_S, allow_inf_nan=False)] = 60.0
    wait_for_inflight_requests: bool = False


class AbortRequest(StrictRequestModel):
    """The requests to abort.

    request_ids: X-Request-Ids, or the ids of answers ("cmpl-..."); "all": every request.
    """

    request_ids: (
        Annotated[
            list[Annotated[str, Field(min_length=1, max_length=256)]], Field(max_length=10_000)
        ]
        | Literal["all"]
    )


class AbortReport(BaseModel):
    """The requests that were aborted.

    aborted: the ids that were found.
    unknown: the ids that were not found; their requests may have ended.
    count: how many requests were aborted.
    """

    aborted: list[str]
    unknown: list[str]
    count: int


class RpcRequest(StrictRequestModel):  # type: ignore[no-redef]  # a field is named "kwargs"
    """A method of the workers and its arguments.

    timeout: seconds for the workers to answer.
    """

    method: Annotated[str, Field(max_length=100)]
    args: Annotated[list[Any], Field(max_length=16, default_factory=list)]
    kwargs: Annotated[dict[str, Any], Field(max_length=16, default_factory=dict)]
    timeout: Annotated[float, Field(gt=0, le=MAX_TIMEOUT_S, allow_inf_nan=False)] | None = None


class RpcResults(BaseModel):
    """The results of a method of the workers.

    results: one for each worker, in the order of groups and replica slots.
    """

    results: list[Any]


class WorkerReport(BaseModel):
    """The result of a call at one worker.

    error: "" on success.
    seconds: how long the call took.
    """

    name: str
    error: str
    seconds: float
    value: Any = None


class PoolReport(BaseModel):
    workers: list[WorkerReport]


class Success(BaseModel):
    success: bool


class ServerInfo(BaseModel):
    """The field names are the reference's.

    vllm_config: text or an object.
    vllm_env: environment variables.
    system_env: versions.
    """

    vllm_config: str | dict[str, Any]
    vllm_env: dict[str, str]
    system_env: dict[str, str]


class IsSleeping(BaseModel):
    """Whether all selected workers are asleep."""

    is_sleeping: bool


class ScaleRequest(StrictRequestModel):
    """The new size of a group.

    new_data_parallel_size: the number of workers that the model must have.
    drain_timeout: seconds for requests of draining workers to finish; the rest move to other
        workers.
    """

    model_config = ConfigDict(strict=False)

    new_data_parallel_size: Annotated[int, Field(ge=0, le=MOST_WORKERS)]
    drain_timeout: Annotated[float, Field(ge=0, le=MAX_TIMEOUT_S, allow_inf_nan=False)] = 120.0


class AdapterQuery(ModelQuery):
    """The model of an adapter, and how long to wait.

    timeout: seconds for workers to load the adapter, or for requests that use it to finish;
    after that, it is unloaded as soon as they have ended.
    verbose: return the result of each worker.
    """

    verbose: bool = False
    timeout: Annotated[float, Field(gt=0, le=MAX_TIMEOUT_S, allow_inf_nan=False)] = 300.0


def _printable(name: str) -> str:
    if not name.isprintable():
        raise bad_value("must not hold control characters")
    return name


AdapterName = Annotated[
    str, Field(min_length=1, max_length=MAX_NAME_CHARS), AfterValidator(_printable)
]


class LoadAdapterRequest(StrictRequestModel):
    """An adapter to load.

    lora_path: a folder on the server's machine with the adapter in PEFT's format, or its id on
    the Hugging Face hub.
    load_inplace: replace an adapter of the same name.
    """

    lora_name: AdapterName
    lora_path: Annotated[str, Field(min_length=1, max_length=4096)]
    load_inplace: bool = False
    is_3d_lora_weight: Annotated[bool, unsupported(False)] = False


class UnloadAdapterRequest(StrictRequestModel):
    """An adapter to unload.

    lora_int_id: without effect.
    """

    lora_name: AdapterName
    lora_int_id: Ignored = None


class Scaled(BaseModel):
    message: str


class IsScaling(BaseModel):
    """Whether the pool, or the selected model, is being scaled."""

    is_scaling_elastic_ep: bool


class PauseStatus(BaseModel):
    """The result of pausing or resuming.

    status: "paused" or "resumed".
    """

    status: str


class IsPaused(BaseModel):
    """Whether all selected workers are paused."""

    is_paused: bool
