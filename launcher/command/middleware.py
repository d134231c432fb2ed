"""A check of the operator's middleware, before any process of the pool is started."""

import os
import subprocess
import sys
from collections.abc import Sequence

from headrace.launcher.command.option_errors import OptionError

TIMEOUT_S = 120.0


def check_middleware(paths: Sequence[str]) -> None:
    """Raise OptionError if a middleware cannot be used.

    It is the operator's code: it runs in a process of its own, and in frontends, but not in this
    process.
    """
    if not paths:
        return
    command = [sys.executable, "-P", "-m", "headrace.frontend.middleware.check_code"]
    try:
        done = subprocess.run(
            [*command, "--parent-pid", str(os.getpid()), "--", *paths],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            check=False,
            timeout=TIMEOUT_S,
        )
    except subprocess.TimeoutExpired as error:
        raise OptionError(f"--middleware: not imported within {TIMEOUT_S:g} s") from error
    if done.returncode != 0:
        lines = done.stdout.decode(errors="replace").splitlines()
        raise OptionError(f"--middleware: {lines[-1] if lines else 'cannot be loaded'}")
