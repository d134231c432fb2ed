"""Request fields for the form of the output."""

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from headrace.frontend.schemas.fields import Name, RequestModel, at_most, unsupported

MAX_CHOICES = 16_384
MAX_TAGS = 1024
MAX_DEFINITION_CHARS = 512 * 1024  # of a schema, a regular expression or a grammar

_Definition = Annotated[str, Field(min_length=1, max_length=MAX_DEFINITION_CHARS)]


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

    json_definition: Annotated[_Definition | dict[str, Any] | None, Field(alias="json")] = None
    regex: _Definition | None = None
    choice: (
        Annotated[list[str], Field(min_length=1, max_length=MAX_CHOICES), at_most(MAX_CHOICES)]
        | None
    ) = None
    grammar: _Definition | None = None
    json_object: bool | None = None
    structural_tag: _Definition | None = None
    whitespace_pattern: Annotated[str, Field(max_length=1024)] | None = None
    disable_any_whitespace: bool = False
    disable_additional_properties: bool = False
    backend: Annotated[Any, unsupported(None), Field(alias="_backend")] = None
    backend_was_auto: Annotated[bool, Field(alias="_backend_was_auto")] = False
