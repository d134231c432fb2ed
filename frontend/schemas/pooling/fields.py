"""Request fields of all routes that turn texts into numbers."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, FailFast, Field

from headrace.frontend.schemas.chat import (
    ChatMessage,
    ChatTemplateText,
    Messages,
    TemplateArguments,
)
from headrace.frontend.schemas.fields import (
    Int,
    Name,
    RequestModel,
    bad_value,
    unsupported,
    wrong_type,
)
from headrace.frontend.schemas.limits import at_most_of, exceeded, limit_of
from headrace.protocol.pooling import NumberFormat

# A text, or its token ids.
TextOrIds = str | list[int]
EncodingFormat = Literal["float", "base64", "bytes", "bytes_only"]
Endianness = Literal["native", "big", "little"]

_KINDS = "must be a string, a list of strings, token ids, or a list of these"


def _texts(value: Any) -> Any:
    """Return one text or several as a list; the types of ids are checked without a Python loop."""
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list):
        raise wrong_type(_KINDS)
    if not value:
        raise bad_value("must not be empty")
    types = set(map(type, value))
    if types == {int}:
        return [value]
    if len(value) > limit_of("max_inputs"):
        raise exceeded("max_inputs", "must hold at most {} texts")
    if types == {str}:
        return value
    if types != {list} or any(set(map(type, ids)) - {int} for ids in value):
        raise wrong_type(_KINDS)
    return value


Texts = Annotated[
    Any,
    BeforeValidator(_texts, json_schema_input_type=str | list[str] | list[int] | list[list[int]]),
]


Conversations = Annotated[list[Messages], FailFast(), Field(min_length=1), at_most_of("max_inputs")]


class PoolingFields(RequestModel):
    """Fields of a request for numbers, whatever numbers they are.

    truncate_prompt_tokens: tokens of a text that are kept; -1: as many as the model takes.
    use_activation: whether embeddings are normalized, and labels' scores are probabilities.
    """

    model: Name | None = None
    user: Annotated[str, Field(max_length=1024)] | None = None
    truncate_prompt_tokens: Annotated[Int, Field(ge=-1, lt=2**31)] | None = None
    truncation_side: Literal["left", "right"] | None = None
    request_id: Annotated[str, Field(min_length=1, max_length=128)] | None = None
    priority: Annotated[Int, Field(ge=-(2**31), lt=2**31)] = 0
    cache_salt: Annotated[str, Field(min_length=1, max_length=1024)] | None = None
    use_activation: bool | None = None

    normalize: Annotated[Any, unsupported(None)] = None  # the reference's name before
    padding: Annotated[Any, unsupported(None, "do_not_pad")] = None
    mm_processor_kwargs: Annotated[Any, unsupported(None, {})] = None


class NumberFields(PoolingFields):
    """Fields of a request whose answer holds vectors.

    dimensions: how many numbers of an embedding to keep, where its model allows that.
    embed_dtype, endianness: of encoded numbers.
    """

    encoding_format: EncodingFormat = "float"
    embed_dtype: NumberFormat = "float32"
    endianness: Endianness = "native"
    dimensions: Annotated[Int, Field(ge=-(2**31), lt=2**31)] | None = None


class TextFields(PoolingFields):
    """Fields of a request for the numbers of texts.

    prompt_name: of the model's prompts, the one that goes before each text; "": none does. Without
        it, that is the model's default.
    """

    input: Texts
    add_special_tokens: bool = True
    prompt_name: Name | None = None

    @property
    def texts(self) -> list[TextOrIds]:
        texts: list[TextOrIds] = self.input
        return texts


class ChatFields(PoolingFields):
    """Fields of a request for the numbers of chats."""

    add_special_tokens: bool = False
    add_generation_prompt: bool = False
    continue_final_message: bool = False
    chat_template: ChatTemplateText | None = None
    chat_template_kwargs: TemplateArguments | None = None
    media_io_kwargs: Annotated[Any, unsupported(None, {})] = None

    @property
    def conversations(self) -> Sequence[list[ChatMessage]]:
        """The chats, each of which has numbers of its own."""
        raise NotImplementedError
