"""What operators' routes take in their query, and what they answer."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

MAX_TIMEOUT_S = 24 * 3600.0


class PoolQuery(BaseModel):
    """model: a served name: only the workers of its group. worker: only this one, by its name in
    /health?verbose or without the number of its start. verbose: what came of it at each worker."""

    model: str | None = None
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


class IsSleeping(BaseModel):
    """Whether all the workers that were asked for sleep."""

    is_sleeping: bool
