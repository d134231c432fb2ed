"""Take a share of the cores by the weight of a worker's group, by Linux's niceness.

The heaviest group of the pool is as nice as the pool itself: only a privileged process may be less
nice than its parent. Threads that start later are as nice as the one that starts them.
"""

import errno
import math
import os
import time
from pathlib import Path

from headrace.protocol.config import GroupConfig, PoolConfig

_STEP = 1.25  # a step of niceness is so much less of a busy core
_MOST = 19
_AUTOGROUP = Path("/proc/self/autogroup")
_ATTEMPTS, _PAUSE_S = 5, 0.1  # the kernel takes ten changes a second of all unprivileged processes


def niceness_of(group: GroupConfig, pool: PoolConfig) -> int:
    """Return how much nicer than the pool's heaviest group the workers of a group are."""
    heaviest = max(each.cpu_weight for each in pool.groups)
    return min(_MOST, round(math.log(heaviest / group.cpu_weight, _STEP)))


def take_share(pool: PoolConfig, group: GroupConfig) -> None:
    """Make this process as nice as its group's weight says; before it starts threads."""
    niceness = niceness_of(group, pool)
    if not niceness:
        return
    total = os.nice(niceness)
    # Where Linux groups tasks by their sessions (autogroup), niceness counts within the session
    # alone; the session has another. A worker that is not the leader of its session leaves it.
    if os.getsid(0) == os.getpid():
        _set_session_niceness(total)


def _set_session_niceness(niceness: int) -> None:
    for _ in range(_ATTEMPTS):
        try:
            _AUTOGROUP.write_text(str(niceness))
        except OSError as error:
            if error.errno != errno.EAGAIN:  # there are no such groups
                return
            time.sleep(_PAUSE_S)
        else:
            return
