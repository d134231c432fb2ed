"""The entry of the `headrace` command.

It loads the command's modules, which takes a second on a busy machine: an interrupt meanwhile must
end the process without a traceback of what was being loaded.
"""

import signal
import sys
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command and end the process with its exit status."""
    interrupt = signal.getsignal(signal.SIGINT)
    if interrupt is signal.default_int_handler:  # it is ignored in the background of a script
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from headrace.launcher.command.commands import run_command

    signal.signal(signal.SIGINT, interrupt)
    try:
        run_command(sys.argv[1:] if argv is None else argv)
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)


if __name__ == "__main__":
    main()
