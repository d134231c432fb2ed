"""Which tenants give way to which in a batch, beyond whose turn it is in the waiting queue.

A tenant with hundreds of requests holds most places of the batch, and each of its texts makes each
step longer. Whoever has just come with a single request should not notice: it gets a place at once,
and its prompt is run in steps of its own.
"""

from collections import Counter
from collections.abc import Sequence as Items

from headrace.workers.engine.waiting_queue import VirtualCounters
from headrace.workers.sequence.sequence import Sequence

# A tenant has few places if it has at most this part of what an even split would give it.
FEW = 0.5


def tenants_to_defer(
    newcomer: Sequence, running: Items[Sequence], served: VirtualCounters
) -> frozenset[str]:
    """The tenants that a newcomer's prompt goes before: those with more places of the batch than an
    even split would give them, if its own has few, and has been served no more.

    newcomer: waits for a place, or has one already.
    """
    first = newcomer.request
    places = _places(newcomer, running)
    if not _has_few(first.tenant, places):
        return frozenset()
    even = places.total() / len(places)
    urgent = {each.request.tenant for each in running if each.request.priority < first.priority}
    crowding = {tenant for tenant, count in places.items() if count > even} - urgent
    return frozenset(each for each in crowding if served[first.tenant] <= served[each])


def pick_victim(
    newcomer: Sequence, running: Items[Sequence], served: VirtualCounters
) -> Sequence | None:
    """Which running sequence of a full batch gives its place to one that waits, if any.

    A tenant that has few places, or none, gets one of the tenant that has most, if that has been
    served more: else what gives way would be next again. Places become free when texts end, which
    with long ones takes as long as they please. What gives way finds its keys and values in the
    cache again, unless memory is short.
    """
    first = newcomer.request
    places = _places(newcomer, running)
    tenant, most = places.most_common(1)[0]
    needs_one = places[first.tenant] == 1 or _has_few(first.tenant, places)
    if not needs_one or most < 2 or served[first.tenant] > served[tenant]:
        return None
    victim = next(each for each in reversed(running) if each.request.tenant == tenant)
    return victim if victim.request.priority >= first.priority else None


def _places(newcomer: Sequence, running: Items[Sequence]) -> Counter[str]:
    """How many places each tenant has, the newcomer's among them."""
    places = Counter(sequence.request.tenant for sequence in running)
    if newcomer not in running:
        places[newcomer.request.tenant] += 1
    return places


def _has_few(tenant: str, places: Counter[str]) -> bool:
    return places[tenant] <= FEW * places.total() / len(places)
