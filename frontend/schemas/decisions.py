"""The requests of POST /v1/decisions and POST /v1/systemone."""

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from headrace.frontend.schemas.fields import Int, Name, RequestModel, bad_value

MAX_QUESTIONS, MAX_CHOICES, MAX_LEVELS = 200, 255, 10
MAX_MESSAGES, MAX_PARTS = 1024, 1024
# Of /v1/systemone.
MAX_SYSTEM_QUESTIONS = 64

Text = Annotated[str, Field(max_length=1024 * 1024)]
CacheSalt = Annotated[str, Field(min_length=1, max_length=1024)] | None


class DecisionText(RequestModel):
    """A part of a message."""

    type: Literal["input_text"]
    text: Text


class DecisionMessage(RequestModel):
    """A message of a user, of text alone."""

    role: Literal["user"]
    content: Annotated[
        Annotated[Text, Tag("text")]
        | Annotated[list[DecisionText], Field(max_length=MAX_PARTS), Tag("parts")],
        Discriminator(lambda value: "text" if isinstance(value, str) else "parts"),
    ]
    type: Literal["message"] = "message"

    @field_validator("content", mode="before")
    @classmethod
    def _refuse_images(cls, value: Any) -> Any:
        parts = value[:MAX_PARTS] if isinstance(value, list) else []
        if any(isinstance(part, dict) and part.get("type") == "input_image" for part in parts):
            raise bad_value("text input only: this model takes no images")
        return value


class _Question(RequestModel):
    instructions: Text
    name: Text | None = None

    @model_validator(mode="after")
    def _check_name(self) -> "_Question":
        if "name" in self.model_fields_set and self.name is None:
            raise bad_value("name must be a string when it is given")
        return self


class Predicate(_Question):
    """Whether something holds."""

    type: Literal["predicate"]


class DecisionOption(RequestModel):
    """A value to choose."""

    value: str | bool
    description: Text = ""


class ChoiceOfValues(_Question):
    """Which of some values it is."""

    type: Literal["choice"]
    choices: Annotated[list[DecisionOption], Field(min_length=2, max_length=MAX_CHOICES)]

    @model_validator(mode="after")
    def _check_values(self) -> "ChoiceOfValues":
        values = {(type(choice.value), choice.value) for choice in self.choices}
        if len(values) < len(self.choices):
            raise bad_value("choices must have different values")
        return self


class DecisionLevel(RequestModel):
    """A level of a score."""

    label: Text
    description: Text = ""


class ScoreOfLevels(_Question):
    """Which of some levels, from the first to the last, it is."""

    type: Literal["score"]
    levels: Annotated[list[DecisionLevel], Field(min_length=2, max_length=MAX_LEVELS)]


def _kind(value: Any) -> Any:
    return value.get("type") if isinstance(value, dict) else getattr(value, "type", None)


DecisionQuestion = Annotated[
    Annotated[Predicate, Tag("predicate")]
    | Annotated[ChoiceOfValues, Tag("choice")]
    | Annotated[ScoreOfLevels, Tag("score")],
    Discriminator(_kind),
]


class DecisionRequest(RequestModel):
    """Questions about a text, in OpenAI's shape."""

    model: Name
    input: Annotated[
        Annotated[Text, Tag("text")]
        | Annotated[list[DecisionMessage], Field(max_length=MAX_MESSAGES), Tag("messages")],
        Discriminator(lambda value: "text" if isinstance(value, str) else "messages"),
    ]
    questions: Annotated[list[DecisionQuestion], Field(min_length=1, max_length=MAX_QUESTIONS)]
    safety_identifier: Annotated[str, Field(max_length=128)] | None = None
    joint: bool = False
    cache_salt: CacheSalt = None

    @property
    def text(self) -> str:
        """What the questions are about."""
        if isinstance(self.input, str):
            return self.input
        return "\n\n".join(
            message.content
            if isinstance(message.content, str)
            else "\n".join(part.text for part in message.content)
            for message in self.input
        )


class SystemQuestion(RequestModel):
    """A question of /v1/systemone; criteria depend on its type."""

    type: Name
    instructions: Any = ""
    criteria: Any = None


class SystemRequest(RequestModel):
    """Questions about a state, by their ids."""

    state: Any
    questions: Annotated[
        dict[str, SystemQuestion], Field(min_length=1, max_length=MAX_SYSTEM_QUESTIONS)
    ]
    model: Name | None = None
    instructions: Text | None = None
    images: list[str] | None = None
    audio: list[str] | None = None
    videos: list[str] | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    joint: bool = False
    cache_salt: CacheSalt = None
    priority: Annotated[Int, Field(ge=-(2**31), lt=2**31)] = 0
    request_id: Annotated[str, Field(min_length=1, max_length=128)] | None = None
