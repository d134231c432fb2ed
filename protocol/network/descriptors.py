"""The limit of descriptors: each connection needs one."""

import logging
import resource

# What a process raises its limit to where it may: a shell's is usually 1,024.
WANTED = 65_536
# A pool works with fewer, but not many clients at once.
_FEW = 4096

log = logging.getLogger("headrace")


def raise_descriptor_limit(connections: int) -> None:
    """Raise this process's limit, which children inherit. connections: how many it must do for."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = max(WANTED, connections + 1024)
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    if wanted < _FEW:
        log.warning(
            "no more than %d descriptors a process: raise the hard limit (ulimit -Hn)", wanted
        )
