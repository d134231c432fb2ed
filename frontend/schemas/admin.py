"""What operators' routes take in their query, and what they answer."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

MAX_TIMEOUT_S = 24 * 3600.0
MOST_WORKERS = 1024


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


class WorkerReport(BaseModel):
    """What came of it at one worker. error: "" if all went well. seconds: how long it took."""

    name: str
    error: str
    seconds: float
    value: Any = None


class PoolReport(BaseModel):
    workers: list[WorkerReport]


class IsSleeping(BaseModel):
    """Whether all the workers that were asked for sleep."""

    is_sleeping: bool


class ScaleRequest(BaseModel):
    """new_data_parallel_size: workers that the model is to have. drain_timeout: seconds in which
    requests of workers that go may end; what is left of them goes on elsewhere."""

    new_data_parallel_size: Annotated[int, Field(ge=1, le=MOST_WORKERS)]
    drain_timeout: Annotated[float, Field(ge=0, le=MAX_TIMEOUT_S, allow_inf_nan=False)] = 120.0


class Scaled(BaseModel):
    message: str


class IsScaling(BaseModel):
    """Whether the pool, or the model that was asked for, becomes larger or smaller."""

    is_scaling_elastic_ep: bool
