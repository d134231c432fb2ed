"""The same two calls as each model writes them."""

from tests.frontend.chat.tools.reading import schemas

TOOLS = schemas(
    f={"a": {"type": "string"}, "n": {"type": "integer"}},
    g={},
)
F_ARGUMENTS = {"a": "Pa ris", "n": 3}

_JSON_F = '{"name": "f", "arguments": {"a": "Pa ris", "n": 3}}'
_JSON_G = '{"name": "g", "arguments": {}}'
_F, _G = '{"a": "Pa ris", "n": 3}', "{}"
_GLM_F = (
    "f\n<arg_key>a</arg_key>\n<arg_value>Pa ris</arg_value>\n"
    "<arg_key>n</arg_key>\n<arg_value>3</arg_value>\n"
)
_QWEN_F = (
    "<function=f>\n<parameter=a>\nPa ris\n</parameter>\n<parameter=n>\n3\n</parameter>\n</function>"
)
_INVOKE_F = (
    '<invoke name="f">\n<parameter name="a">Pa ris</parameter>\n'
    '<parameter name="n">3</parameter>\n</invoke>'
)
_STEP = "<｜tool_call_begin｜>function<｜tool_sep｜>"
_CALLS, _CALLS_END = "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"
_CALL, _CALL_END, _SEPARATOR = "<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>", "<｜tool▁sep｜>"


def _dsml(section: str, space: str = "") -> str:
    tag = f"｜DSML｜{space}"
    return (
        f'<{tag}{section}>\n<{tag}invoke name="f">\n'
        f'<{tag}parameter name="a" string="true">Pa ris</{tag}parameter>\n'
        f'<{tag}parameter name="n" string="false">3</{tag}parameter>\n</{tag}invoke>\n'
        f'<{tag}invoke name="g">\n</{tag}invoke>\n</{tag}{section}>'
    )


def _plamo(name: str, arguments: str) -> str:
    return (
        "<|plamo:begin_tool_request:plamo|><|plamo:begin_tool_name:plamo|>"
        f"{name}<|plamo:end_tool_name:plamo|><|plamo:begin_tool_arguments:plamo|>"
        f"<|plamo:constrain|>json<|plamo:msg|>{arguments}"
        "<|plamo:end_tool_arguments:plamo|><|plamo:end_tool_request:plamo|>"
    )


def _kimi(name: str, arguments: str) -> str:
    return f"<|tool_call_begin|>{name}<|tool_call_argument_begin|>{arguments}<|tool_call_end|>"


def _marked(text: str) -> str:
    return f"~{text}".replace("~", "]<]minimax[>[")


# Texts of the call f(a="Pa ris", n=3) and then g().
WRITTEN: dict[str, list[str]] = {
    "apertus": [f'<|tools_prefix|>[{{"f": {_F}}}, {{"g": {{}}}}]<|tools_suffix|>'],
    "cohere_command3": [
        f"<|START_ACTION|>[\n    {_JSON_F},\n    {_JSON_G}\n]<|END_ACTION|>".replace(
            '"name"', '"tool_name"'
        ).replace("arguments", "parameters")
    ],
    "cohere_command4": [
        '<|START_ACTION|>[{"tool_call_id": "0", "tool_name": "f", "parameters": '
        f'{_F}}}, {{"tool_name": "g", "parameters": {{}}}}]<|END_ACTION|>'
    ],
    "deepseek_v3": [
        f"{_CALLS}{_CALL}function{_SEPARATOR}f\n```json\n{_F}\n```{_CALL_END}\n"
        f"{_CALL}function{_SEPARATOR}g\n```json\n{{}}\n```{_CALL_END}{_CALLS_END}"
    ],
    "deepseek_v31": [
        f"{_CALLS}{_CALL}f{_SEPARATOR}{_F}{_CALL_END}{_CALL}g{_SEPARATOR}{{}}{_CALL_END}{_CALLS_END}"
    ],
    "deepseek_v32": [_dsml("function_calls")],
    "deepseek_v4": [_dsml("tool_calls")],
    "deepseek_v41": [_dsml("calls", " ")],
    "dots": [
        f'<dots_function_call>\n{_INVOKE_F}\n<invoke name="g"></invoke>\n</dots_function_call>'
    ],
    "ernie45": [
        f"<tool_call>\n{_JSON_F}\n</tool_call>\n\n<tool_call>\n{_JSON_G}\n</tool_call>\n",
    ],
    "functiongemma": [
        "<start_function_call>call:f{a:<escape>Pa ris<escape>,n:3}<end_function_call>"
        "<start_function_call>call:g{}<end_function_call>"
    ],
    "gemma4": [
        '<|tool_call>call:f{a:<|"|>Pa ris<|"|>,n:3}<tool_call|><|tool_call>call:g{}<tool_call|>',
        '<|tool_call>:f{n:3,<|"|>a<|"|>:<|"|>Pa ris<|"|>}<tool_call|>\n<|tool_call>call:g{}<turn|>',
        "<|tool_call>call:f{ a: Pa ris , n: 3 }<|tool_call>call:g{}",
    ],
    "gigachat3": [
        f"<|function_call|>{_JSON_F}<|message_sep|><|function_call|>{_JSON_G}",
        f"function call<|role_sep|>\n{_JSON_F}\n{_JSON_G}",
    ],
    "glm45": [f"<tool_call>{_GLM_F}</tool_call>\n<tool_call>g\n</tool_call>"],
    "glm47": [
        f"<tool_call>{_GLM_F}</tool_call><tool_call>g</tool_call>".replace("\n", ""),
        f"<tool_call>{_GLM_F}<tool_call>g</tool_call>",
    ],
    "granite": [f"<|tool_call|> [{_JSON_F}, {_JSON_G}]", f"<tool_call>[{_JSON_F}, {_JSON_G}]"],
    "granite-20b-fc": [f"<function_call> {_JSON_F}\n<function_call> {_JSON_G}"],
    "granite4": [f"<tool_call>\n{_JSON_F}\n</tool_call>\n<tool_call>\n{_JSON_G}\n</tool_call>"],
    "hermes": [f"<tool_call>\n{_JSON_F}\n</tool_call>\n<tool_call>\n{_JSON_G}\n</tool_call>"],
    "hunyuan_a13b": [f"<tool_calls>[{_JSON_F}, {_JSON_G}]</tool_calls>"],
    "hy_v3": [
        "<tool_calls>\n<tool_call>"
        + _GLM_F.replace("f\n", "f<tool_sep>\n", 1)
        + "</tool_call>\n<tool_call>g<tool_sep>\n</tool_call>\n</tool_calls>"
    ],
    "hy_v4": [
        "<tool_calls>\n<tool_call>" + _GLM_F + "</tool_call>\n<tool_call>g</tool_call></tool_calls>"
    ],
    "inkling": [
        f"<|message_model|><|content_invoke_tool_json|>{_JSON_F}<|end_message|>"
        f"<|message_model|><|content_invoke_tool_json|>{_JSON_G}<|end_message|>".replace(
            "arguments", "args"
        )
    ],
    "internlm": [
        f"<|action_start|><|plugin|>\n{_JSON_F}\n<|action_end|>"
        f"<|action_start|><|plugin|>\n{_JSON_G}\n<|action_end|>".replace("arguments", "parameters")
    ],
    "jamba": [f"<tool_calls>[\n    {_JSON_F},\n    {_JSON_G}\n]</tool_calls>"],
    "k2_horizon": [
        f"<ifm|tool_calls>\n<ifm|tool_call>{_GLM_F}</ifm|tool_call>\n"
        "<ifm|tool_call>g\n</ifm|tool_call>\n</ifm|tool_calls>".replace("arg_", "ifm|arg_"),
        f"<ifm|tool_call>{_JSON_F}</ifm|tool_call><ifm|tool_call>{_JSON_G}</ifm|tool_call>",
    ],
    "kimi_k2": [
        f"<|tool_calls_section_begin|>{_kimi('functions.f:0', _F)}{_kimi('functions.g:1', _G)}"
        "<|tool_calls_section_end|>"
    ],
    "kimi_k3": [
        '<|open|>tools<|sep|><|open|>call tool="f" index="1"<|sep|>'
        '<|open|>argument key="a" type="string"<|sep|>Pa ris<|close|>argument<|sep|>'
        '<|open|>argument key="n" type="integer"<|sep|>3<|close|>argument<|sep|>'
        '<|close|>call<|sep|><|open|>call tool="g" index="2"<|sep|><|close|>call<|sep|>'
        "<|close|>tools<|sep|><|close|>message<|sep|>"
    ],
    "lfm2": [
        '<|tool_call_start|>[f(a="Pa ris", n=3), g()]<|tool_call_end|>',
        f"<|tool_call_start|>[{_JSON_F}, {_JSON_G}]<|tool_call_end|>",
    ],
    "ling3": [f"<tool_call>{_GLM_F}</tool_call>\n<tool_call>g</tool_call>"],
    "llama3_json": [
        f"{_JSON_F}; {_JSON_G}".replace("arguments", "parameters"),
        f"<|python_tag|>{_JSON_F}; {_JSON_G}",
    ],
    "llama4_json": [f"[{_JSON_F}, {_JSON_G}]"],
    "llama4_pythonic": [
        "<|python_start|>[f(a='Pa ris', n=3), g()]<|python_end|>",
        "[f(a='Pa ris', n=3), g()]",
    ],
    "longcat": [
        f"<longcat_tool_call>\n{_JSON_F}\n</longcat_tool_call>\n"
        f"<longcat_tool_call>\n{_JSON_G}\n</longcat_tool_call>"
    ],
    "mimo": [
        "<tool_call>\n<function=f>\n<parameter=a>Pa ris</parameter><parameter=n>3</parameter>\n"
        "</function>\n</tool_call>\n<tool_call>\n<function=g>\n</function>\n</tool_call>"
    ],
    "minicpm5": [
        '<function name="f"><param name="a">Pa ris</param><param name="n">3</param></function>\n'
        '<function name="g"></function>'
    ],
    "minimax_m2": [
        f'<minimax:tool_call>\n{_INVOKE_F}\n<invoke name="g">\n</invoke>\n</minimax:tool_call>',
        f"<minimax:tool_call>{_INVOKE_F}</minimax:tool_call><minimax:tool_call><invoke name='g'>"
        "</invoke></minimax:tool_call>",
    ],
    "minimax_m3": [
        _marked(
            '<tool_call>\n~<invoke name="f">\n~<a>Pa ris~</a>\n~<n>3~</n>\n~</invoke>\n'
            '~<invoke name="g">~</invoke>~</tool_call>'
        )
    ],
    "mistral": [
        f"[TOOL_CALLS][{_JSON_F}, {_JSON_G}]",
        f"[TOOL_CALLS]f{_F}[TOOL_CALLS]g{_G}",
        f"[TOOL_CALLS]f[CALL_ID]abcdefgh9[ARGS]{_F}[TOOL_CALLS]g[ARGS]{_G}",
    ],
    "olmo3": ['<function_calls>\nf(a="Pa ris", n=3)\ng()\n</function_calls>'],
    "openai": [
        "<|channel|>commentary to=functions.f <|constrain|>json<|message|>"
        f"{_F}<|call|><|start|>assistant<|channel|>commentary to=functions.g <|constrain|>json"
        f"<|message|>{_G}<|call|>",
        f" to=functions.f<|channel|>commentary json<|message|>{_F}<|end|>"
        f"<|start|>assistant to=functions.g<|channel|>commentary<|message|>{_G}",
    ],
    "phi4_mini_json": [
        f"functools[{_JSON_F}, {_JSON_G}]",
        f'<|tool_call|>[{{"type": "function", "function": {_JSON_F}}}, {_JSON_G}]<|/tool_call|>',
    ],
    "plamo3": [
        f"<|plamo:begin_tool_requests:plamo|>{_plamo('f', _F)}{_plamo('g', _G)}"
        "<|plamo:end_tool_requests:plamo|>"
    ],
    "poolside_v1": [f"<tool_call>{_GLM_F}</tool_call>\n<tool_call>g\n</tool_call>"],
    "pythonic": ['[f(a="Pa ris", n=3), g()]', '[f(a="Pa ris", n=3), g(),]'],
    "qwen3_coder": [
        f"<tool_call>\n{_QWEN_F}\n</tool_call>\n<tool_call>\n<function=g>\n</function>\n</tool_call>",
        f"{_QWEN_F}\n</tool_call>\n<function=g></function>",
        f"<tool_call>\n{_QWEN_F}\n<function=g>\n</tool_call>".replace("</parameter>\n</f", "</f"),
        f"<tool_call>{_QWEN_F}</tool_call><tool_call><function=g>".replace("</function>", "")
        + "</function>",
    ],
    "qwen3_json": [f"<tool_call>\n{_JSON_F}\n</tool_call>\n<tool_call>\n{_JSON_G}\n</tool_call>"],
    "qwen3_xml": [
        f"<tool_call>\n{_QWEN_F}\n</tool_call>\n<tool_call>\n<function=g>\n</function>\n</tool_call>"
    ],
    "seed_oss": [
        f"<seed:tool_call>\n{_QWEN_F}\n</seed:tool_call>\n"
        "<seed:tool_call>\n<function=g>\n</function>\n</seed:tool_call>"
    ],
    "step3": [
        f'<｜tool_calls_begin｜>{_STEP}<steptml:invoke name="f"><steptml:parameter name="a">Pa ris'
        '</steptml:parameter><steptml:parameter name="n">3</steptml:parameter></steptml:invoke>'
        f'<｜tool_call_end｜>\n{_STEP}<steptml:invoke name="g"></steptml:invoke><｜tool_call_end｜>'
        "<｜tool_calls_end｜>"
    ],
    "step3p5": [
        f"<tool_call>\n{_QWEN_F}\n</tool_call>\n<tool_call>\n<function=g>\n</function>\n</tool_call>"
    ],
    "step5": [
        f"<tool_call>\n{_QWEN_F}\n</tool_call>\n<tool_call>\n<function=g>\n</function>\n</tool_call>"
    ],
    "xlam": [
        f"[{_JSON_F}, {_JSON_G}]",
        f"```json\n[{_JSON_F}, {_JSON_G}]\n```",
        f"<tool_call>[{_JSON_F}, {_JSON_G}]</tool_call>",
        f"[TOOL_CALLS][{_JSON_F}, {_JSON_G}]",
    ],
}
