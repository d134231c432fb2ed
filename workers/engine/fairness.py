"""Decide which owners are deferred in a batch, beyond the order of the waiting queue.

A tenant with hundreds of requests holds most of the batch, and each of its sequences makes each
step longer. A tenant that has just come with a single request should not notice: its request joins
the batch at once, and its prompt is run in steps of its own. What holds between tenants holds
between the users of one tenant, too, within what that tenant has of the batch.
"""

from collections import Counter
from collections.abc import Callable
from collections.abc import Sequence as Items

from headrace.workers.engine.waiting_queue import OwnerCounters, VirtualCounters
from headrace.workers.sequence.sequence import Owner, Sequence

# A party has few sequences in the batch if it has at most this share of an even split.
FEW = 0.5

# Returns a sequence's tenant, or its user where all are of one tenant: the parties of a decision.
Party = Callable[[Sequence], str]


def owners_to_defer(
    newcomer: Sequence, running: Items[Sequence], served: OwnerCounters
) -> frozenset[Owner]:
    """Return the owners that are deferred while a newcomer's prompt is run.

    They have more sequences in the batch than an even split would give them, and have been served
    no less than the newcomer's owner; none are deferred unless that one has few.

    newcomer: waits to join the batch, or has just joined it.
    """
    tenant, own = _same_tenant(newcomer, running)
    tenants = _parties_to_defer(newcomer, running, _tenant, served.tenants)
    users = _parties_to_defer(newcomer, own, _user, served.users_of(tenant))
    if not tenants and not users:
        return frozenset()
    crowding = [each.owner for each in running if each.request.tenant in tenants]
    return frozenset(crowding + [(tenant, user) for user in users])


def _parties_to_defer(
    newcomer: Sequence, running: Items[Sequence], party: Party, served: VirtualCounters
) -> set[str]:
    first, sequences = party(newcomer), _count(newcomer, running, party)
    if not _has_few(first, sequences):
        return set()
    even = sequences.total() / len(sequences)
    priority = newcomer.request.priority
    urgent = {party(each) for each in running if each.request.priority < priority}
    crowding = {each for each, count in sequences.items() if count > even} - urgent
    return {each for each in crowding if served[first] <= served[each]}


def pick_victim(
    newcomer: Sequence, running: Items[Sequence], served: OwnerCounters
) -> Sequence | None:
    """Return the running sequence of a full batch to preempt for a newcomer, or None.

    A tenant with few sequences in the batch, or none, preempts one of the tenant with the most, if
    that has been served more: else the victim would be the next to join again. Without this a
    newcomer waits until a sequence ends, which may take any time. The victim finds its keys and
    values in the cache again, unless memory is short. A user does the same within its tenant.
    """
    tenant, own = _same_tenant(newcomer, running)
    crowded = _crowded_party(newcomer, running, _tenant, served.tenants)
    if crowded is not None:
        own = [each for each in running if each.request.tenant == crowded]
        user = Counter(map(_user, own)).most_common(1)[0][0]
    else:
        found = _crowded_party(newcomer, own, _user, served.users_of(tenant))
        if found is None:
            return None
        user = found
    victim = next(each for each in reversed(own) if each.request.user == user)
    return victim if victim.request.priority >= newcomer.request.priority else None


def _crowded_party(
    newcomer: Sequence, running: Items[Sequence], party: Party, served: VirtualCounters
) -> str | None:
    """Return the party that must give a place to the newcomer; None if none must."""
    first, sequences = party(newcomer), _count(newcomer, running, party)
    crowded, most = sequences.most_common(1)[0]
    needs_one = sequences[first] == 1 or _has_few(first, sequences)
    if not needs_one or most < 2 or served[first] > served[crowded]:
        return None
    return crowded


def _tenant(sequence: Sequence) -> str:
    return sequence.request.tenant


def _user(sequence: Sequence) -> str:
    return sequence.request.user


def _same_tenant(newcomer: Sequence, running: Items[Sequence]) -> tuple[str, list[Sequence]]:
    """Return the newcomer's tenant, and the sequences that it has in the batch."""
    tenant = newcomer.request.tenant
    return tenant, [each for each in running if each.request.tenant == tenant]


def _count(newcomer: Sequence, running: Items[Sequence], party: Party) -> Counter[str]:
    """Return how many sequences each party has in the batch, the newcomer included."""
    sequences = Counter(map(party, running))
    if newcomer not in running:
        sequences[party(newcomer)] += 1
    return sequences


def _has_few(party: str, sequences: Counter[str]) -> bool:
    return sequences[party] <= FEW * sequences.total() / len(sequences)
