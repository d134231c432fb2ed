"""The words of models that pool: they turn a text into numbers instead of more text."""

from typing import Final, Literal

# embed: a vector for a text. token_embed: one for each of its tokens. classify: a number for each
# label. token_classify: that for each token. score: one number for a pair of texts.
PoolingTask = Literal["embed", "token_embed", "classify", "token_classify", "score"]
# What a model is for.
Task = Literal[
    "generate", "transcription", "embed", "token_embed", "classify", "token_classify", "score"
]
GENERATE: Final = "generate"
TRANSCRIPTION: Final = "transcription"

NumberFormat = Literal["float32", "float16", "bfloat16", "fp8_e4m3", "fp8_e5m2"]
NUMBER_BYTES: Final[dict[str, int]] = {
    "float32": 4,
    "float16": 2,
    "bfloat16": 2,
    "fp8_e4m3": 1,
    "fp8_e5m2": 1,
}

Runner = Literal["generate", "pooling"]
# How a model is used whose own head does something else, or that has none.
Convert = Literal["none", "embed", "classify"]
