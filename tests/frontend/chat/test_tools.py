"""Tools in chats, from the request to its answer; the model's words are the test's."""

import json
from pathlib import Path
from typing import Any

import pytest
from quart.typing import TestClientProtocol as Client
from tokenizers import AddedToken

from headrace.frontend.app import create_app
from headrace.frontend.metrics import Metrics
from headrace.frontend.text.model_tokenizer import ModelTokenizer
from headrace.protocol.config import GroupConfig, PoolConfig, ServingOptions
from headrace.protocol.reasoning import ReasoningFormat, parse_format
from headrace.protocol.text import TextInfo
from tests.frontend.fake_pool import FakePool
from tests.frontend.structured.shared_checkers import new_grammars
from tests.frontend.text.tokenizers_for_tests import CHAT_TEMPLATE, EOS, SPECIAL, byte_level

PATH = "/v1/chat/completions"
MESSAGES = [{"role": "user", "content": "Weather?"}]
PARAMETERS = {"type": "object", "properties": {"city": {"enum": ["Paris", "Rome"]}}}
WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {"name": "get_weather", "description": "w", "parameters": PARAMETERS},
}
TIME: dict[str, Any] = {"type": "function", "function": {"name": "get_time"}}
TOOLS = [WEATHER, TIME]
NAMED = {"type": "function", "function": {"name": "get_weather"}}
ONE = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>'
TWO = ONE + '\n<tool_call>\n{"name": "get_time", "arguments": {}}\n</tool_call>'
FORCED = '[{"name": "get_weather", "parameters": {"city": "Rome"}}]'
# As in Mistral's tokenizer, calls begin with a special token.
SPECIALS = [*SPECIAL, "[TOOL_CALLS]", "[OTHER]"]
TOOL_TEMPLATE = "{% for tool in tools %}{{ tool | tojson }}\n{% endfor %}" + CHAT_TEMPLATE


class Served:
    """A model that says what the test wants."""

    def __init__(
        self, folder: Path, reasoning_parser: ReasoningFormat | None = None, **options: object
    ) -> None:
        serving = {"enable_auto_tool_choice": True, "tool_call_parser": "hermes", **options}
        backend = byte_level()
        backend.add_tokens([AddedToken(token, special=True) for token in SPECIALS])
        backend.save(str(TextInfo.tokenizer_file(folder)))
        info = TextInfo(
            max_model_len=4096,
            vocab_size=backend.get_vocab_size(),
            eos_token=SPECIAL[EOS],
            eos_token_ids=(EOS,),
            chat_template=CHAT_TEMPLATE,
            chat_templates={"tool_use": TOOL_TEMPLATE},
        )
        info.save(folder)
        self.text = ModelTokenizer(info, backend)
        self.says = ""
        self.pool = FakePool(lambda _: [*backend.encode(self.says).ids, EOS])
        group = GroupConfig(
            name="main",
            model="m",
            model_path=folder,
            text_path=folder,
            served_names=("smol",),
            reasoning_parser=reasoning_parser,
            serving=ServingOptions(**serving),
        )
        config = PoolConfig(run_dir=folder, groups=(group,))
        app = create_app(config, {"main": self.text}, self.pool, Metrics(config), new_grammars())
        self.client: Client = app.test_client()

    async def ask(self, **fields: Any) -> tuple[int, dict[str, Any]]:
        response = await self.client.post(PATH, json={"messages": MESSAGES, **fields})
        return response.status_code, await response.get_json()

    async def choice(self, **fields: Any) -> dict[str, Any]:
        status, body = await self.ask(**fields)
        assert status == 200, body
        found: dict[str, Any] = body["choices"][0]
        return found

    async def streamed(self, **fields: Any) -> tuple[str, list[list[str]], str]:
        """Content, calls and finish reason of a stream; content None if there is none at all."""
        response = await self.client.post(
            PATH, json={"messages": MESSAGES, "stream": True, **fields}
        )
        assert response.status_code == 200
        lines = (await response.get_data(as_text=True)).strip().split("\n\n")[:-1]
        chunks = [json.loads(line.removeprefix("data: "))["choices"][0] for line in lines]
        return gathered(chunks)

    def prompt(self) -> str:
        ids = self.pool.requests[-1].prompt_token_ids
        return self.text.backend.decode(ids, skip_special_tokens=False)

    def grammar(self) -> str:
        assert self.pool.requests[-1].grammar is not None
        return self.pool.requests[-1].grammar.text


def gathered(chunks: list[dict[str, Any]]) -> tuple[str, list[list[str]], str]:
    content = ""
    calls: list[list[str]] = []
    for chunk in chunks:
        content += chunk["delta"].get("content", "")
        for part in chunk["delta"].get("tool_calls", []):
            if "id" in part:
                assert part["index"] == len(calls)
                assert part["type"] == "function"
                calls.append([part["function"]["name"], ""])
            calls[part["index"]][1] += part["function"]["arguments"]
    return content, calls, chunks[-1]["finish_reason"]


@pytest.fixture
def served(tmp_path: Path) -> Served:
    return Served(tmp_path)


async def test_a_call_that_the_model_makes(served: Served) -> None:
    served.says = ONE
    choice = await served.choice(tools=TOOLS)
    assert choice["finish_reason"] == "tool_calls"
    message = choice["message"]
    assert message["content"] is None
    (call,) = message["tool_calls"]
    assert call["id"].startswith("chatcmpl-tool-")
    assert call["type"] == "function"
    assert call["function"] == {"name": "get_weather", "arguments": '{"city": "Paris"}'}
    assert await served.streamed(tools=TOOLS) == (
        "",
        [["get_weather", '{"city": "Paris"}']],
        "tool_calls",
    )
    assert served.pool.requests[-1].grammar is None


async def test_content_and_calls(served: Served) -> None:
    served.says = "I look.\n" + TWO
    choice = await served.choice(tools=TOOLS)
    assert choice["message"]["content"] == "I look."
    names = [call["function"]["name"] for call in choice["message"]["tool_calls"]]
    assert names == ["get_weather", "get_time"]
    content, calls, reason = await served.streamed(tools=TOOLS)
    assert (content, [name for name, _ in calls], reason) == ("I look.", names, "tool_calls")


async def test_one_call_where_there_must_not_be_several(served: Served) -> None:
    served.says = TWO
    choice = await served.choice(tools=TOOLS, parallel_tool_calls=False)
    assert [call["function"]["name"] for call in choice["message"]["tool_calls"]] == ["get_weather"]


async def test_every_choice_has_calls_of_its_own(served: Served) -> None:
    served.says = TWO
    status, body = await served.ask(tools=TOOLS, n=2, temperature=1, logprobs=True)
    assert status == 200
    made = [choice["message"]["tool_calls"] for choice in body["choices"]]
    assert [len(calls) for calls in made] == [2, 2]
    assert len({call["id"] for calls in made for call in calls}) == 4
    # Token ids are returned even where their text is a part of a call.
    tokens = len(served.text.backend.encode(TWO).ids) + 1
    assert [len(choice["logprobs"]["content"]) for choice in body["choices"]] == [tokens] * 2


async def test_an_answer_without_calls(served: Served) -> None:
    served.says = "It rains."
    choice = await served.choice(tools=TOOLS, tool_choice="auto")
    assert choice["message"]["content"] == "It rains."
    assert "tool_calls" not in choice["message"]
    assert choice["finish_reason"] == "stop"


async def test_a_call_that_is_cut_short(served: Served) -> None:
    served.says = ONE
    limit = len(served.text.backend.encode(ONE).ids) - 8
    choice = await served.choice(tools=TOOLS, max_tokens=limit)
    assert choice["finish_reason"] == "length"
    (call,) = choice["message"]["tool_calls"]
    assert '{"city": "Paris"}'.startswith(call["function"]["arguments"])


async def test_calls_stay_text_where_none_may_be_made(served: Served) -> None:
    served.says = ONE
    for choice in ("none", None):
        assert (await served.choice(tools=TOOLS, tool_choice=choice))["message"]["content"] == ONE
    assert "get_weather" in served.prompt()


async def test_prompts_need_not_tell_of_tools_that_must_not_be_called(tmp_path: Path) -> None:
    served = Served(tmp_path, exclude_tools_when_tool_choice_none=True)
    served.says = "x"
    await served.choice(tools=TOOLS, tool_choice="none")
    assert "get_weather" not in served.prompt()


async def test_the_template_for_tools_gets_them_as_the_client_wrote_them(served: Served) -> None:
    served.says = "x"
    strange = {"type": "function", "function": {**TIME["function"], "return": {"type": "string"}}}
    await served.choice(tools=[WEATHER, strange])
    shown = f"{json.dumps(WEATHER)}\n{json.dumps(strange)}\n<|im_start|>"
    assert served.prompt().startswith(shown)
    noted = [{**tool, "function": {**tool["function"], "cache_control": {}}} for tool in TOOLS]
    await served.choice(tools=[noted[0], {**strange, "defer_loading": True}])
    assert served.prompt().startswith(shown)
    await served.choice()
    assert served.prompt().startswith("<|im_start|>")


async def test_tokenizing_a_chat_with_tools(served: Served) -> None:
    body = {"messages": MESSAGES, "tools": TOOLS}
    response = await served.client.post("/tokenize", json=body)
    served.says = "x"
    await served.choice(tools=TOOLS)
    assert (await response.get_json())["tokens"] == list(served.pool.requests[-1].prompt_token_ids)


async def test_required(served: Served) -> None:
    served.says = FORCED
    choice = await served.choice(tools=TOOLS, tool_choice="required")
    assert choice["message"]["content"] == ""
    assert choice["finish_reason"] == "tool_calls"
    (call,) = choice["message"]["tool_calls"]
    assert call["function"] == {"name": "get_weather", "arguments": '{"city": "Rome"}'}
    assert await served.streamed(tools=TOOLS, tool_choice="required") == (
        "",
        [["get_weather", '{"city": "Rome"}']],
        "tool_calls",
    )
    assert "get_time" in served.grammar()


async def test_named(served: Served) -> None:
    served.says = '{"city": "Rome"}'
    choice = await served.choice(tools=TOOLS, tool_choice=NAMED)
    assert choice["finish_reason"] == "stop"
    assert choice["message"]["content"] == ""
    (call,) = choice["message"]["tool_calls"]
    assert call["function"] == {"name": "get_weather", "arguments": '{"city": "Rome"}'}
    assert await served.streamed(tools=TOOLS, tool_choice=NAMED) == (
        "",
        [["get_weather", '{"city": "Rome"}']],
        "stop",
    )
    assert "get_time" not in served.grammar()


@pytest.mark.parametrize(
    "name",
    [
        *["get weather", "天气", 'a "b" (c)', "größe/1", "x" * 256, "\\d"],
        *["天\u3000气", "a\u00a0b", "می\u200cخواهم", "👩\u200d💻"],
    ],
)
async def test_names_of_any_letters(served: Served, name: str) -> None:
    tool = {"type": "function", "function": {"name": name, "strict": True}}
    call = {"name": name, "arguments": {}}
    served.says = f"<tool_call>\n{json.dumps(call, ensure_ascii=False)}\n</tool_call>"
    assert await served.streamed(tools=[tool, TIME]) == ("", [[name, "{}"]], "tool_calls")
    served.says = f"[{json.dumps({'name': name, 'parameters': {}}, ensure_ascii=False)}]"
    required = {"tools": [tool, TIME], "tool_choice": "required"}
    assert await served.streamed(**required) == ("", [[name, "{}"]], "tool_calls")
    assert json.dumps(name, ensure_ascii=False)[1:-1] in json.loads(
        served.grammar().split("call_0: ")[1].split(" %json")[0]
    )
    served.says = "{}"
    chosen = {"type": "function", "function": {"name": name}}
    choice = await served.choice(tools=[tool, TIME], tool_choice=chosen)
    assert choice["message"]["tool_calls"][0]["function"]["name"] == name


async def test_a_demanded_call_needs_no_parser_and_goes_before_response_format(
    tmp_path: Path,
) -> None:
    served = Served(tmp_path, enable_auto_tool_choice=False, tool_call_parser=None)
    served.says = FORCED
    choice = await served.choice(
        tools=TOOLS, tool_choice="required", response_format={"type": "json_object"}
    )
    assert choice["message"]["tool_calls"]
    assert "get_time" in served.grammar()


def allowed(mode: str, *names: str) -> dict[str, Any]:
    tools = [{"type": "function", "function": {"name": name}} for name in names]
    return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": tools}}


async def test_only_allowed_tools(served: Served) -> None:
    served.says = FORCED
    choice = await served.choice(tools=TOOLS, tool_choice=allowed("required", "get_weather"))
    assert choice["finish_reason"] == "tool_calls"
    assert "get_time" not in served.grammar()
    assert "get_time" not in served.prompt()
    served.says = ONE
    choice = await served.choice(tools=TOOLS, tool_choice=allowed("auto", "get_weather"))
    assert choice["finish_reason"] == "tool_calls"


async def test_strict_functions_are_held_to_their_schemas(served: Served) -> None:
    strict = {"type": "function", "function": {**WEATHER["function"], "strict": True}}
    served.says = ONE
    choice = await served.choice(tools=[strict, TIME])
    assert choice["finish_reason"] == "tool_calls"
    assert "Rome" in served.grammar()


async def test_special_tokens_are_seen_by_the_parser_and_by_nobody_else(tmp_path: Path) -> None:
    served = Served(tmp_path, tool_call_parser="mistral")
    served.says = 'Well.[OTHER][TOOL_CALLS]get_time{"a": 1}'
    choice = await served.choice(tools=TOOLS)
    assert choice["message"]["content"] == "Well."
    (call,) = choice["message"]["tool_calls"]
    assert call["function"] == {"name": "get_time", "arguments": '{"a": 1}'}
    assert len(call["id"]) == 9
    choice = await served.choice()
    assert choice["message"]["content"] == 'Well.get_time{"a": 1}'


async def test_a_chat_goes_on_with_calls_and_their_results(served: Served) -> None:
    served.says = ONE
    message = (await served.choice(tools=TOOLS))["message"]
    result = {"role": "tool", "tool_call_id": message["tool_calls"][0]["id"], "content": "rain"}
    served.says = "It rains."
    assert message["content"] is None  # which this template does not know
    choice = await served.choice(tools=TOOLS, messages=[*MESSAGES, message, result])
    assert choice["message"]["content"] == "It rains."
    assert "tool\nrain" in served.prompt()


DEEP = json.loads('{"a":' * 300 + "{}" + "}" * 300)
BAD = [
    ({"tool_choice": "required"}, "tool_choice"),
    ({"tool_choice": "auto"}, "tool_choice"),
    ({"tool_choice": NAMED}, "tool_choice"),
    ({"tools": [], "tool_choice": NAMED}, "tool_choice"),
    ({"tools": [TIME], "tool_choice": NAMED}, "tool_choice"),
    ({"tools": [TIME], "tool_choice": allowed("auto", "get_weather")}, "tool_choice"),
    ({"tools": [TIME], "tool_choice": "any"}, "tool_choice"),
    ({"tools": [TIME], "tool_choice": 3}, "body.tool_choice"),
    ({"tools": [TIME], "tool_choice": {"type": "custom", "custom": {}}}, "tool_choice"),
    ({"tools": [TIME], "tool_choice": {"type": "function"}}, "body.tool_choice.function"),
    ({"tools": [{"type": "custom", "custom": {"name": "x"}}]}, "tools.0"),
    ({"tools": [{"type": "function"}]}, "body.tools.0.function"),
    ({"tools": [{"function": {"name": ""}}]}, "tools.0.function.name"),
    ({"tools": [{"function": {"name": " "}}]}, "tools.0.function.name"),
    ({"tools": [{"function": {"name": "a\nb"}}]}, "tools.0.function.name"),
    ({"tools": [{"function": {"name": "a\u202eb"}}]}, "tools.0.function.name"),
    ({"tools": [{"function": {"name": "\u3000\u200d"}}]}, "tools.0.function.name"),
    ({"tools": [{"function": {"name": "x" * 257}}]}, "tools.0.function.name"),
    (
        {"tools": [{"function": {"name": "x", "parameters": []}}]},
        "body.tools.0.function.parameters",
    ),
    ({"tools": [TIME] * 1025}, "tools"),
    ({"tools": [WEATHER], "parallel_tool_calls": "no"}, "body.parallel_tool_calls"),
    (
        {"tools": TOOLS, "tool_choice": "required", "structured_outputs": {"regex": "a"}},
        "structured_outputs",
    ),
    (
        {
            "tools": [{"function": {"name": "x", "parameters": {"type": "nonsense"}}}],
            "tool_choice": "required",
        },
        None,
    ),
    (
        {"tools": [{"function": {"name": "x", "parameters": DEEP}}], "tool_choice": "required"},
        "body.tools",
    ),
    (
        {"tools": TOOLS, "tool_choice": "required", "use_beam_search": True},
        "use_beam_search",
    ),
    ({"functions": [TIME["function"]]}, "functions"),
    ({"function_call": {"name": "f"}}, "function_call"),
]


@pytest.mark.parametrize(("fields", "param"), BAD)
async def test_bad_requests(served: Served, fields: dict[str, Any], param: str) -> None:
    status, body = await served.ask(**fields)
    assert status == 400, body
    assert body["error"]["param"] == param
    assert (param or "tools").removeprefix("body.") in body["error"]["message"]
    assert not served.pool.requests


@pytest.mark.parametrize("fields", [{}, {"tool_choice": "auto"}])
async def test_models_may_not_choose_to_call_where_no_parser_can_tell(
    tmp_path: Path, fields: dict[str, Any]
) -> None:
    served = Served(tmp_path, enable_auto_tool_choice=False, tool_call_parser="none")
    status, body = await served.ask(tools=TOOLS, **fields)
    assert status == 400
    assert "--tool-call-parser" in body["error"]["message"]
    served.says = "x"
    assert (await served.choice(tools=TOOLS, tool_choice="none"))["message"]["content"] == "x"


async def test_reasoning_then_calls(tmp_path: Path) -> None:
    served = Served(tmp_path, reasoning_parser=parse_format("qwen3"))
    served.says = f"<think>\nI could look.\n</think>\n\n{ONE}"
    choice = await served.choice(tools=TOOLS)
    assert "look." in choice["message"]["reasoning"]
    assert choice["message"]["content"] is None
    assert choice["message"]["tool_calls"][0]["function"]["name"] == "get_weather"
    content, calls, reason = await served.streamed(tools=TOOLS)
    assert (content, calls, reason) == ("", [["get_weather", '{"city": "Paris"}']], "tool_calls")


async def test_a_demanded_call_comes_after_reasoning(tmp_path: Path) -> None:
    served = Served(tmp_path, reasoning_parser=parse_format("deepseek_r1"))
    served.says = f"Let me <tool_call> see.</think>{FORCED}"
    choice = await served.choice(tools=TOOLS, tool_choice="required")
    assert choice["message"]["reasoning"] == "Let me <tool_call> see."
    assert choice["message"]["tool_calls"][0]["function"]["name"] == "get_weather"
    assert served.pool.requests[-1].grammar is not None
    assert served.pool.requests[-1].grammar.after == ("</think>",)


async def test_calls_in_anthropics_format(served: Served) -> None:
    served.says = ONE
    body = {
        "model": "smol",
        "max_tokens": 200,
        "messages": MESSAGES,
        "tools": [{"name": "get_weather", "input_schema": PARAMETERS}],
    }
    answer = await (await served.client.post("/v1/messages", json=body)).get_json()
    assert answer["stop_reason"] == "tool_use"
    (block,) = answer["content"]
    assert (block["type"], block["name"], block["input"]) == (
        "tool_use",
        "get_weather",
        {"city": "Paris"},
    )
    counted = await served.client.post("/v1/messages/count_tokens", json=without_limit(body))
    assert (await counted.get_json())["input_tokens"] == len(
        served.pool.requests[-1].prompt_token_ids
    )


def without_limit(body: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in body.items() if name != "max_tokens"}


ODD: dict[str, Any] = {
    "type": "object",
    "properties": {
        "city": {"enum": ["Paris", "Rome"]},
        "pattern": {"type": "string", "pattern": "^(?!x)", "format": "uri-template"},
        "number": {"type": "integer", "minimum": 10**18},
        "const": {"const": {"properties": {"a": 1}}},
    },
    "propertyNames": {"not": {"const": "z"}},
    "not": {"required": ["x"]},
    "if": {"required": ["city"]},
    "then": {"required": ["number"]},
    "dependentRequired": {"city": ["number"]},
}


@pytest.mark.parametrize("choice", ["required", NAMED, "auto", allowed("required", "get_weather")])
async def test_what_cannot_be_enforced_of_a_tool_ends_no_request(
    served: Served, choice: Any
) -> None:
    function = {"name": "get_weather", "parameters": ODD, "strict": True}
    tools = [{"type": "function", "function": function}, TIME]
    status, body = await served.ask(tools=tools, tool_choice=choice)
    assert status == 200, body
    grammar = served.grammar()
    assert '"additionalProperties": false' in grammar
    assert '{"properties": {"a": 1}}' in grammar
    assert not any(word in grammar for word in ("uri-template", "(?!x)", '"then"', "\0"))
    # What the template shows is the client's own.
    assert "uri-template" in served.prompt()


async def test_what_cannot_be_enforced_of_a_format_is_named(served: Served) -> None:
    for keyword, value in (("not", {}), ("if", {}), ("dependentRequired", {"a": ["b"]})):
        schema = {"type": "object", keyword: value, "then": {}}
        asked = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
        status, body = await served.ask(response_format=asked)
        assert (status, body["error"]["type"]) == (400, "BadRequestError")
        assert keyword in body["error"]["message"]
