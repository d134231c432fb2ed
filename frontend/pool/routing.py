"""Which worker takes a request: a pure choice over what the frontend knows."""

import hashlib
import random
from array import array
from collections.abc import Sequence
from typing import NamedTuple

from headrace.protocol.to_worker import Generate

# A prefix shorter than this costs less to compute again than an uneven load does.
AFFINITY_TOKENS = 256
# How far above the mean a worker's load may be, with the request, if it is chosen for its cache.
# Where the mean is small that is a part of a request, and no prefix would find its worker: so one
# above the mean it may have anyway, and in a pool that is nearly idle two in all.
LOAD_BOUND = 1.2
NEVER_BUSY = 2


class Candidate(NamedTuple):
    """A ready worker.

    load: requests that it has, as far as this frontend knows.
    expected: what it probably has, where some frontends' requests are known from heartbeats alone,
        up to 0.3 s late. They know as little, and choose alike, so each is taken to have sent a
        worker as many as this one has. Else all would send a burst to the worker that seemed least
        busy when it began. Where all are seen it equals the load.
    """

    worker_id: str
    load: int
    expected: int


def choose(candidates: Sequence[Candidate], request: Generate) -> str:
    """The worker that is likely to have the prompt's beginning in its cache, unless it would become
    too busy; for short prompts one of the least busy, ties broken at random.

    Affinity is rendezvous hashing with bounded loads (Mirrokni et al., "Consistent Hashing with
    Bounded Loads"): all frontends agree on the order without talking to each other.
    """
    key = _prefix_key(request)
    if key is None:
        least = min(each.expected for each in candidates)
        return random.choice([each.worker_id for each in candidates if each.expected == least])
    preferred = sorted(candidates, key=lambda one: _weight(key, one.worker_id))
    mean = (sum(each.load for each in candidates) + 1) / len(candidates)
    bound = max(NEVER_BUSY, mean + 1, LOAD_BOUND * mean)
    for each in preferred:
        if each.load + 1 <= bound:
            return each.worker_id
    return min(preferred, key=lambda one: one.expected).worker_id


def _prefix_key(request: Generate) -> bytes | None:
    if len(request.prompt_token_ids) < AFFINITY_TOKENS:
        return None
    tokens = array("q", request.prompt_token_ids[:AFFINITY_TOKENS]).tobytes()
    apart = f"{request.cache_salt}\0{request.adapter}".encode()
    return hashlib.blake2b(tokens + apart, digest_size=16).digest()


def _weight(key: bytes, worker_id: str) -> bytes:
    # The place, not the start: a restarted worker gets the prefixes of the one before it.
    place = worker_id.rpartition(".")[0]
    return hashlib.blake2b(key + place.encode(), digest_size=8).digest()
