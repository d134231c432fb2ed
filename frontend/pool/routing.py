"""Choose the worker of a request: a pure function of the frontend's knowledge of the pool."""

import hashlib
import random
from array import array
from collections.abc import Sequence
from typing import NamedTuple

from headrace.protocol.to_worker import EngineRequest, Generate

# Recomputing a shorter prefix costs less than uneven load.
AFFINITY_TOKENS = 256
# How far above the mean a worker's load may be, the request included, to be chosen for its cache.
# With a small mean that would be a fraction of a request, and no prefix would find its worker: one
# request above the mean is always allowed, and in a nearly idle pool two in all.
LOAD_BOUND = 1.2
MIN_LOAD_BOUND = 2


class Candidate(NamedTuple):
    """A ready worker.

    load: its requests, as far as this frontend knows.
    expected: its probable requests if some frontends are visible only through heartbeats, up to
        0.3 s late. They choose alike, so each is assumed to have sent the worker as many as this
        one. Otherwise all would send a burst to the worker that seemed least busy at its start.
        Equals the load if all frontends are visible.
    """

    worker_id: str
    load: int
    expected: int


def choose(candidates: Sequence[Candidate], request: EngineRequest) -> str:
    """Return the worker that probably has the prompt's prefix cached, unless it would become too
    busy; for short prompts a random one of the least busy.

    Affinity is rendezvous hashing with bounded loads (Mirrokni et al., "Consistent Hashing with
    Bounded Loads"): all frontends agree on the order without talking to each other.
    """
    if isinstance(request, Generate) and request.audio is not None:
        return _choose_for_window(candidates, request.audio.digest)
    key = _prefix_key(request)
    if key is None:
        least = min(each.expected for each in candidates)
        return random.choice([each.worker_id for each in candidates if each.expected == least])
    preferred = sorted(candidates, key=lambda each: _weight(key, each.worker_id))
    mean = (sum(each.load for each in candidates) + 1) / len(candidates)
    bound = max(MIN_LOAD_BOUND, mean + 1, LOAD_BOUND * mean)
    for each in preferred:
        if each.load + 1 <= bound:
            return each.worker_id
    return min(preferred, key=lambda each: each.expected).worker_id


def _choose_for_window(candidates: Sequence[Candidate], digest: bytes) -> str:
    """Return one of the least busy workers, the same for all requests about a window if there are
    several: it keeps what its encoder has made. Encoding again costs less than waiting."""
    least = min(each.expected for each in candidates)
    mean = sum(each.load for each in candidates) / len(candidates)
    bound = max(least, LOAD_BOUND * mean - 1)
    fit = [each for each in candidates if each.expected <= bound]
    return min(fit, key=lambda each: _weight(digest, each.worker_id)).worker_id


def _prefix_key(request: EngineRequest) -> bytes | None:
    if not isinstance(request, Generate) or len(request.prompt_token_ids) < AFFINITY_TOKENS:
        return None
    tokens = array("q", request.prompt_token_ids[:AFFINITY_TOKENS]).tobytes()
    namespace = f"{request.cache_salt}\0{request.adapter}".encode()
    return hashlib.blake2b(tokens + namespace, digest_size=16).digest()


def _weight(key: bytes, worker_id: str) -> bytes:
    # The replica slot, not the start: a restarted worker keeps its prefixes.
    slot = worker_id.rpartition(".")[0]
    return hashlib.blake2b(key + slot.encode(), digest_size=8).digest()
