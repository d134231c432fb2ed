"""The requests and responses of POST /tokenize and /detokenize."""

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator

from headrace.frontend.schemas.chat import ChatTemplateText, Messages, TemplateArguments
from headrace.frontend.schemas.fields import Name, RequestModel, unsupported, wrong_type
from headrace.frontend.schemas.limits import exceeded, limit_of
from headrace.frontend.schemas.tools import Tools


class TokenizePromptRequest(RequestModel):
    prompt: str
    model: Name | None = None
    add_special_tokens: bool = True
    return_token_strs: bool | None = False


class TokenizeChatRequest(RequestModel):
    messages: Messages
    model: Name | None = None
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    add_special_tokens: bool = False
    return_token_strs: bool | None = False
    chat_template_kwargs: TemplateArguments | None = None
    chat_template: ChatTemplateText | None = None
    media_io_kwargs: Annotated[Any, unsupported(None, {})] = None
    mm_processor_kwargs: Annotated[Any, unsupported(None, {})] = None
    tools: Tools | None = None


class TokenizeAnswer(BaseModel):
    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None


def _token_ids(value: Any) -> Any:
    """Check the types of a list, which may be long, without a loop in Python."""
    if not isinstance(value, list) or set(map(type, value)) - {int}:
        raise wrong_type("must be a list of token ids")
    if len(value) > limit_of("max_token_ids"):
        raise exceeded("max_token_ids", "must hold at most {} token ids")
    return value


class DetokenizeRequest(RequestModel):
    tokens: Annotated[Any, BeforeValidator(_token_ids, json_schema_input_type=list[int])]
    model: Name | None = None


class DetokenizeAnswer(BaseModel):
    prompt: str
