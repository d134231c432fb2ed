"""Check that a tool parser exists:
`python -m headrace.frontend.chat.tools.check_parser NAME [PLUGIN.py] --parent-pid PID`.

Exits with status 0, or with status 1 and the reason in one line on stdout.
"""

import argparse
import sys
from pathlib import Path

from headrace.frontend.chat.tools.available import ParserError, find_parser
from headrace.protocol.common.process import become_child
from headrace.protocol.logs.set_up import inherited_options


def main() -> int:
    parser = argparse.ArgumentParser(prog="headrace-check-parser")
    parser.add_argument("name")
    parser.add_argument("plugin", type=Path, nargs="?")
    parser.add_argument("--parent-pid", type=int, required=True)
    args = parser.parse_args()
    become_child("check", args.parent_pid, inherited_options())  # a plug-in may run forever
    try:
        find_parser(args.name, args.plugin)
    except ParserError as error:
        print(" ".join(str(error).split()))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
