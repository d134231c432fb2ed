"""Which worker takes a request: a pure choice over what the frontend knows."""

import hashlib
import random
from array import array
from collections.abc import Sequence
from dataclasses import dataclass

from protocol.to_worker import Generate

# A prefix shorter than this costs less to compute again than an uneven load does.
AFFINITY_TOKENS = 256
# How far above the mean a worker's load may be for it to be chosen for its cache.
LOAD_BOUND = 1.25
# A worker with fewer requests than this is not busy. What is known of others' loads is a heartbeat
# old, so that a request that has just ended may still be counted.
BUSY_FROM = 3


@dataclass(frozen=True)
class Candidate:
    """A ready worker.

    load: requests that it has, as far as this frontend knows.
    expected: what it probably has. What is known of others' requests is up to 0.3 s old; but all
        frontends see the same and choose alike, so each takes the others to have sent a worker as
        many as it has itself. Else all would send a burst to the worker that seemed least busy when
        it began.
    """

    worker_id: str
    load: int
    expected: int


def choose(candidates: Sequence[Candidate], request: Generate) -> str:
    """The worker that is likely to have the prompt's beginning in its cache, unless it is too
    busy; else one of the least busy, ties broken at random.

    Affinity is rendezvous hashing with bounded loads (Mirrokni et al., "Consistent Hashing with
    Bounded Loads"): all frontends agree on the order without talking to each other.
    """
    key = _prefix_key(request)
    if key is not None:
        bound = LOAD_BOUND * (sum(each.load for each in candidates) + 1) / len(candidates)
        for each in sorted(candidates, key=lambda one: _weight(key, one.worker_id)):
            if each.load < max(BUSY_FROM, bound):
                return each.worker_id
    least = min(each.expected for each in candidates)
    return random.choice([each.worker_id for each in candidates if each.expected == least])


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
