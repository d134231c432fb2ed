"""Says whether a parser can be had: `python -m frontend.chat.tools.check NAME [PLUGIN.py]`.

Ends with status 0, or with 1 and one line on stdout that says why not.
"""

import sys
from pathlib import Path

from frontend.chat.tools.available import ParserError, find_parser


def main(arguments: list[str]) -> int:
    name, *plugin = arguments
    try:
        find_parser(name, Path(plugin[0]) if plugin else None)
    except ParserError as error:
        print(" ".join(str(error).split()))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
