"""A check of a group's tool parser, before any process is started for the group."""

import os
import subprocess
import sys

from headrace.launcher.command.options import GroupOptions, OptionError
from headrace.protocol.reasoning import AUTO


def check_tool_parser(group: GroupOptions) -> None:
    """Raise OptionError if there is no such parser.

    A plug-in is the operator's code: it runs in a process of its own, and in frontends, but not in
    this process.
    """
    if group.tool_call_parser in (None, AUTO):
        if group.tool_call_parser is None and group.enable_auto_tool_choice:
            raise OptionError("--enable-auto-tool-choice: needs --tool-call-parser")
        if group.tool_parser_plugin is not None:
            raise OptionError("--tool-parser-plugin: needs --tool-call-parser")
        return
    plugin = [] if group.tool_parser_plugin is None else [str(group.tool_parser_plugin.absolute())]
    command = [sys.executable, "-P", "-m", "headrace.frontend.chat.tools.check_parser"]
    parent = ["--parent-pid", str(os.getpid())]
    done = subprocess.run(
        [*command, *parent, "--", group.tool_call_parser, *plugin],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        check=False,
    )
    if done.returncode != 0:
        lines = done.stdout.decode(errors="replace").splitlines()
        raise OptionError(f"--tool-call-parser: {lines[-1] if lines else 'cannot be loaded'}")
