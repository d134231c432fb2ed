"""Check that an operator's middleware can be used:
`python -m headrace.frontend.middleware.check_code --parent-pid PID PATH ...`.

Exits with status 0, or with status 1 and the reason in one line on stdout.
"""

import argparse
import sys

from headrace.frontend.middleware.asgi import ASGIScope, Receive, Send
from headrace.frontend.middleware.operator_code import MiddlewareError, wrap
from headrace.protocol.common.process import become_child
from headrace.protocol.logs.set_up import inherited_options


async def _no_application(scope: ASGIScope, receive: Receive, send: Send) -> None:
    """Answer nothing: the middleware is only made."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="headrace-check-middleware")
    parser.add_argument("paths", nargs="+")
    parser.add_argument("--parent-pid", type=int, required=True)
    args = parser.parse_args()
    become_child("check", args.parent_pid, inherited_options())  # the code may run forever
    try:
        wrap(_no_application, args.paths)
    except MiddlewareError as error:
        print(error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
