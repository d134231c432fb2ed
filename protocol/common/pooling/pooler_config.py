"""What an operator says about how a model pools, in the reference's words."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

SequencePooling = Literal["CLS", "LAST", "MEAN"]
TokenPooling = Literal["ALL", "STEP"]
_Count = Annotated[int, Field(ge=1)]


class PoolerConfig(BaseModel):
    """How a model pools, where that is not what its files say.

    task: which one requests mean that name none.
    pooling_type: the one or the other of the next two. seq_pooling_type: how vectors of tokens
        become one. tok_pooling_type: whose tokens' numbers are answered: all, or those of
        `step_tag_id`.
    use_activation: whether embeddings are normalized, and scores are probabilities, unless requests
        say otherwise. dimensions: to how many numbers embeddings are cut, unless requests do.
    enable_chunked_processing: texts longer than the model takes are embedded in pieces.
    max_embed_len: tokens of a text that is embedded, at most.
    logit_mean, logit_sigma: scores less the one, over the other, before their activation.
    enable_flash_late_interaction: without effect.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    task: Literal["embed", "classify", "token_embed", "token_classify"] | None = None
    pooling_type: SequencePooling | TokenPooling | None = None
    seq_pooling_type: SequencePooling | None = None
    tok_pooling_type: TokenPooling | None = None
    use_activation: bool | None = None
    enable_flash_late_interaction: bool = True
    dimensions: _Count | None = None
    enable_chunked_processing: bool = False
    max_embed_len: _Count | None = None
    logit_mean: float | None = None
    logit_sigma: float | None = None
    step_tag_id: Annotated[int, Field(ge=0)] | None = None
    returned_token_ids: None = None

    @model_validator(mode="before")
    @classmethod
    def _split_pooling_type(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        if "normalize" in values:
            raise ValueError("normalize is use_activation now")
        kind = values.get("pooling_type")
        if kind is None:
            return values
        for name in ("seq_pooling_type", "tok_pooling_type"):
            if values.get(name) not in (None, kind):
                raise ValueError(f"pooling_type and {name} exclude each other")
        name = "tok_pooling_type" if kind in ("ALL", "STEP") else "seq_pooling_type"
        return {**values, name: kind}

    @field_validator("returned_token_ids", mode="before")
    @classmethod
    def _refuse(cls, value: Any) -> None:
        if value is not None:
            raise ValueError("numbers of single tokens are not served: leave it out")

    @field_validator("logit_sigma")
    @classmethod
    def _divides(cls, value: float | None) -> float | None:
        if value == 0:
            raise ValueError("must not be 0")
        return value

    @field_validator("step_tag_id")
    @classmethod
    def _needs_steps(cls, value: int | None, info: ValidationInfo) -> int | None:
        if value is not None and info.data.get("tok_pooling_type") != "STEP":
            raise ValueError("needs tok_pooling_type STEP")
        return value
