"""Parsers that cannot be had end the start with one line, before anything is started."""

from pathlib import Path

import pytest

from headrace.launcher.command.options import OptionError, parse
from headrace.launcher.command.tool_parsers import check_tool_parser


def check(*flags: str) -> None:
    _, (group,), _ = parse(list(flags))
    check_tool_parser(group)


def test_parsers_that_there_are(tmp_path: Path) -> None:
    check()
    check("--tool-call-parser", "hermes", "--enable-auto-tool-choice")
    check("--enable-auto-tool-choice")
    check("--tool-call-parser", 'generic:{"start": "<call>", "end": "</call>"}')
    plugin = tmp_path / "plugin.py"
    plugin.write_text(
        "from headrace.frontend.chat.tools.parser import ToolParser, register_tool_parser\n"
        "register_tool_parser('mine')(ToolParser)\n"
    )
    check("--tool-call-parser", "mine", "--tool-parser-plugin", str(plugin))


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--tool-call-parser", "nope"], "'nope' is not one of "),
        (["--tool-call-parser", "hermes:x"], "--tool-call-parser"),
        (["--tool-call-parser", "generic"], "start"),
        (["--tool-call-parser", 'generic:{"start": "<", "stop": ">"}'], "stop"),
        (["--tool-call-parser", "generic:{"], "generic"),
        (["--enable-auto-tool-choice", "--tool-call-parser", "none"], "--enable-auto-tool-choice"),
        (["--tool-parser-plugin", "x.py"], "--tool-parser-plugin"),
        (["--tool-call-parser", "x", "--tool-parser-plugin", "/none.py"], "/none.py"),
    ],
)
def test_parsers_that_there_are_not(flags: list[str], named: str) -> None:
    with pytest.raises(OptionError) as caught:
        check(*flags)
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("code", ["raise SystemError('a\\nb')", "x = 1", "import torch_none", "("])
def test_plugins_that_do_not_work(tmp_path: Path, code: str) -> None:
    plugin = tmp_path / "plugin.py"
    plugin.write_text(code)
    with pytest.raises(OptionError) as caught:
        check("--tool-call-parser", "x", "--tool-parser-plugin", str(plugin))
    assert "plugin.py" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_settings_reach_the_group_and_paths_become_absolute() -> None:
    flags = ["--tool-call-parser", "x", "--tool-parser-plugin", "x.py"]
    _, (group,), _ = parse([*flags, "--exclude-tools-when-tool-choice-none"])
    config = group.serving_options()
    assert config.tool_parser_plugin == Path.cwd() / "x.py"
    assert config.tool_call_parser == "x"
    assert config.exclude_tools_when_tool_choice_none
    assert not config.enable_auto_tool_choice
