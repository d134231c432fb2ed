"""Decide which tenants are deferred in a batch, beyond the order of the waiting queue.

A tenant with hundreds of requests holds most of the batch, and each of its sequences makes each
step longer. A tenant that has just come with a single request should not notice: its request joins
the batch at once, and its prompt is run in steps of its own.
"""

from collections import Counter
from collections.abc import Sequence as Items

from headrace.workers.engine.waiting_queue import VirtualCounters
from headrace.workers.sequence.sequence import Sequence

# A tenant has few sequences in the batch if it has at most this share of an even split.
FEW = 0.5


def tenants_to_defer(
    newcomer: Sequence, running: Items[Sequence], served: VirtualCounters
) -> frozenset[str]:
    """Return the tenants that are deferred while a newcomer's prompt is run.

    They have more sequences in the batch than an even split would give them, and have been served
    no less than the newcomer's tenant; none are deferred unless that one has few.

    newcomer: waits to join the batch, or has just joined it.
    """
    first = newcomer.request
    sequences = _count_by_tenant(newcomer, running)
    if not _has_few(first.tenant, sequences):
        return frozenset()
    even = sequences.total() / len(sequences)
    urgent = {
        sequence.request.tenant
        for sequence in running
        if sequence.request.priority < first.priority
    }
    crowding = {tenant for tenant, count in sequences.items() if count > even} - urgent
    return frozenset(tenant for tenant in crowding if served[first.tenant] <= served[tenant])


def pick_victim(
    newcomer: Sequence, running: Items[Sequence], served: VirtualCounters
) -> Sequence | None:
    """Return the running sequence of a full batch to preempt for a newcomer, or None.

    A tenant with few sequences in the batch, or none, preempts one of the tenant with the most, if
    that has been served more: else the victim would be the next to join again. Without this a
    newcomer waits until a sequence ends, which may take any time. The victim finds its keys and
    values in the cache again, unless memory is short.
    """
    first = newcomer.request
    sequences = _count_by_tenant(newcomer, running)
    tenant, most = sequences.most_common(1)[0]
    needs_one = sequences[first.tenant] == 1 or _has_few(first.tenant, sequences)
    if not needs_one or most < 2 or served[first.tenant] > served[tenant]:
        return None
    victim = next(sequence for sequence in reversed(running) if sequence.request.tenant == tenant)
    return victim if victim.request.priority >= first.priority else None


def _count_by_tenant(newcomer: Sequence, running: Items[Sequence]) -> Counter[str]:
    """Return how many sequences each tenant has in the batch, the newcomer included."""
    sequences = Counter(sequence.request.tenant for sequence in running)
    if newcomer not in running:
        sequences[newcomer.request.tenant] += 1
    return sequences


def _has_few(tenant: str, sequences: Counter[str]) -> bool:
    return sequences[tenant] <= FEW * sequences.total() / len(sequences)
