"""Request fields for the form of the output."""

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from headrace.frontend.schemas.fields import Name, RequestModel, at_most, unsupported
from headrace.frontend.schemas.limits import at_most_of, characters_of

MAX_TAGS = 1024

_SchemaText = Annotated[str, Field(min_length=1), characters_of("max_schema_chars")]


class JsonSchemaFormat(RequestModel):
    """A JSON schema that the output must match.

    strict: without effect; the output always conforms.
    """

    model_config = ConfigDict(populate_by_name=False)

    name: Name
    description: str | None = None
    definition: Annotated[dict[str, Any] | None, Field(alias="schema")] = None
    strict: bool | None = None


class Structure(RequestModel):
    """A tag of the older form of structural tags: its content, and what begins and ends it."""

    model_config = ConfigDict(populate_by_name=False)

    begin: Annotated[str, Field(max_length=4096)]
    definition: Annotated[dict[str, Any] | None, Field(alias="schema")] = None
    end: Annotated[str, Field(max_length=4096)]


class ResponseFormat(RequestModel):
    """A format that the output must match.

    structures, triggers, format: of structural tags, in their older and newer form.
    """

    type: Literal["text", "json_object", "json_schema", "structural_tag"]
    json_schema: JsonSchemaFormat | None = None
    structures: Annotated[list[Structure], at_most(MAX_TAGS)] | None = None
    triggers: Annotated[list[str], at_most(MAX_TAGS)] | None = None
    format: dict[str, Any] | None = None


class StructuredOutputs(RequestModel):
    """One of json, regex, choice, grammar, json_object and structural_tag, and options for JSON."""

    json_definition: Annotated[_SchemaText | dict[str, Any] | None, Field(alias="json")] = None
    regex: Annotated[str, Field(min_length=1), characters_of("max_regex_chars")] | None = None
    choice: (
        Annotated[list[str], Field(min_length=1), at_most_of("max_structured_choices")] | None
    ) = None
    grammar: Annotated[str, Field(min_length=1), characters_of("max_grammar_chars")] | None = None
    json_object: bool | None = None
    structural_tag: _SchemaText | None = None
    whitespace_pattern: Annotated[str, Field(max_length=1024)] | None = None
    disable_any_whitespace: bool = False
    disable_additional_properties: bool = False
    backend: Annotated[Any, unsupported(None), Field(alias="_backend")] = None
    backend_was_auto: Annotated[bool, Field(alias="_backend_was_auto")] = False
