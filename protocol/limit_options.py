"""Limits on what a request may hold; what exceeds one is a bad value of its field."""

from typing import Annotated

from pydantic import Field

from headrace.protocol.engine_config import Frozen, Positive

# The schema compiler gives up at 128, and adds levels of its own.
DEEPEST_SCHEMA = 96
# Python's parser of JSON recurses, and has a limit of its own.
DEEPEST_JSON = 512


class LimitOptions(Frozen):
    """Limits on what a request may hold."""

    max_json_depth: Annotated[int, Field(ge=8, le=DEEPEST_JSON)] = Field(
        128, description="how deep lists and objects of a body may be nested"
    )
    max_json_values: Positive = Field(
        100_000, description="values in a body, names of fields included and token ids not"
    )
    max_token_ids: Positive = Field(
        1_000_000, description="token ids in a body, or in a field of it"
    )
    max_n: Positive = Field(128, description="choices of a prompt (n, best_of)")
    max_choices: Positive = Field(
        1024, description="choices of a request, over all its prompts (prompts times n)"
    )
    max_beams: Positive = Field(32, description="width of a beam search (n)")
    max_prompts: Positive = Field(
        1024, description="prompts of a request, or conversations of a batch of chats"
    )
    max_inputs: Positive = Field(2048, description="texts of a request for numbers")
    max_numbers: Positive = Field(
        2**24, description="numbers of all tokens of a request for vectors or labels of tokens"
    )
    max_messages: Positive = Field(10_000, description="messages of a chat, or items of an input")
    max_content_parts: Positive = Field(10_000, description="parts of a message's content")
    max_documents: Positive = Field(1024, description="documents of a chat")
    max_stop: Positive = Field(4, description="strings in stop")
    max_stop_sequences: Positive = Field(64, description="strings in stop_sequences of Messages")
    max_stop_chars: Positive = Field(4096, description="characters of a stop string")
    max_stop_token_ids: Positive = Field(1024, description="ids in stop_token_ids")
    max_bad_words: Positive = Field(512, description="texts in bad_words")
    max_logit_bias: Positive = Field(16_384, description="tokens in logit_bias")
    max_logprob_token_ids: Positive = Field(128, description="ids in logprob_token_ids")
    max_tools: Positive = Field(1024, description="tools of a request")
    max_tool_chars: Positive = Field(256 * 1024, description="characters of a tool as JSON")
    max_tool_calls: Positive = Field(4096, description="tool calls in the messages of a chat")
    max_schema_chars: Positive = Field(512 * 1024, description="characters of a schema as JSON")
    max_schema_depth: Annotated[int, Field(ge=1, le=DEEPEST_SCHEMA)] = Field(
        DEEPEST_SCHEMA, description="how deep lists and objects of a schema may be nested"
    )
    max_schema_nodes: Positive = Field(10_000, description="lists and objects in a schema")
    max_grammar_chars: Positive = Field(512 * 1024, description="characters of a grammar")
    max_regex_chars: Positive = Field(64 * 1024, description="characters of a regular expression")
    max_structured_choices: Positive = Field(
        16_384, description="texts in structured_outputs.choice"
    )
    grammar_timeout_s: Annotated[float, Field(gt=0)] = Field(
        3.0, description="seconds for a schema, a regular expression or a grammar to be compiled"
    )
    max_chat_template_chars: Positive = Field(
        64 * 1024, description="characters of a chat template that a request brings"
    )
    chat_template_timeout_s: Annotated[float, Field(gt=0)] = Field(
        5.0, description="seconds for a chat template that a request brings to be rendered"
    )
    max_template_arguments: Positive = Field(64, description="names in chat_template_kwargs")
    max_template_argument_chars: Positive = Field(
        64 * 1024, description="characters of chat_template_kwargs as JSON"
    )
    max_template_argument_depth: Positive = Field(
        16, description="how deep lists and objects of chat_template_kwargs may be nested"
    )
