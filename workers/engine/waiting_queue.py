"""Order waiting requests by priority, then by fairness to owners, then by arrival."""

import time
from bisect import insort
from collections import Counter
from collections.abc import Callable
from typing import Generic, TypeVar

from headrace.workers.sequence.queued_request import Owner, QueuedRequest

# A priority class that gets nothing counts as one more urgent after so long: none waits for ever.
AGEING_S = 5.0
# What a tenant is charged for each token, as in the VTC paper.
PROMPT_WEIGHT, OUTPUT_WEIGHT = 1, 2
# How far a tenant that comes back is put before those that wait: about a request or two. Without it
# a tenant with little would be behind one of several with much whenever it has just been served.
CREDIT = 1024
MAX_TENANTS = 10_000  # whose counters are kept

Queued = TypeVar("Queued", bound=QueuedRequest)


class VirtualCounters:
    """The weighted tokens that each tenant has been served, or each user of one tenant.

    The virtual token counter of Sheng et al., "Fairness in Serving Large Language Models" (OSDI
    2024): the tenant with the smallest counter is next, and one that comes back after a pause gets
    little credit for it: its counter is lifted to the smallest of those that wait, less CREDIT. (In
    the paper it gets none. CREDIT is far below the difference that requests of any length make.)
    """

    def __init__(self) -> None:
        self._served: dict[str, int] = {}
        self._waiting: Counter[str] = Counter()
        self._floor = 0  # the counter of the tenant whose last request left an empty queue

    def __len__(self) -> int:
        """Return how many tenants have a counter."""
        return len(self._served)

    def __contains__(self, tenant: str) -> bool:
        return tenant in self._served

    def __getitem__(self, tenant: str) -> int:
        return self._served.get(tenant, 0)

    def charge(self, tenant: str, weighted_tokens: int) -> None:
        """Add to a tenant's counter."""
        self._served[tenant] = self[tenant] + weighted_tokens

    def enter(self, tenant: str) -> None:
        """Count one more waiting request of the tenant."""
        if tenant not in self._waiting:
            others = [self[other] for other in self._waiting]
            smallest = min(others, default=self._floor)
            self._served[tenant] = max(self[tenant], smallest - CREDIT)
            self._evict()
        self._waiting[tenant] += 1

    def leave(self, tenant: str) -> None:
        """Count one waiting request of the tenant less."""
        self._waiting[tenant] -= 1
        if not self._waiting[tenant]:
            del self._waiting[tenant]
            self._floor = max(self._floor, self[tenant]) if not self._waiting else self._floor

    def _evict(self) -> None:
        """Drop the smallest counters if there are too many: they would be lifted in any case."""
        if len(self._served) <= MAX_TENANTS:
            return
        by_service = sorted(self._served, key=self._served.__getitem__)
        for tenant in by_service[: MAX_TENANTS // 2]:
            if tenant not in self._waiting:
                del self._served[tenant]


class OwnerCounters:
    """What tenants have been served, and within each tenant its users."""

    def __init__(self) -> None:
        self.tenants = VirtualCounters()
        self._users: dict[str, VirtualCounters] = {}

    def users_of(self, tenant: str) -> VirtualCounters:
        """Return what the users of a tenant have been served."""
        users = self._users.get(tenant)
        if users is None:
            users = self._users[tenant] = VirtualCounters()
        return users

    def charge(self, owner: Owner, weighted_tokens: int) -> None:
        """Add to the counters of a tenant and of its user."""
        tenant, user = owner
        self.tenants.charge(tenant, weighted_tokens)
        self.users_of(tenant).charge(user, weighted_tokens)

    def enter(self, owner: Owner) -> None:
        """Count one more waiting request of the owner."""
        tenant, user = owner
        self.tenants.enter(tenant)
        self.users_of(tenant).enter(user)
        if len(self._users) > MAX_TENANTS:
            known = self.tenants
            self._users = {each: users for each, users in self._users.items() if each in known}

    def leave(self, owner: Owner) -> None:
        """Count one waiting request of the owner less."""
        tenant, user = owner
        self.tenants.leave(tenant)
        self.users_of(tenant).leave(user)


class WaitingQueue(Generic[Queued]):
    """The requests that wait to join the batch.

    Lower priorities are more urgent. Within one, tenants alternate by the service that they have
    received (`counters`), and within each tenant its users. Of a user's requests those that have
    begun (preempted, or replayed after their worker died) come before the others, since a client
    is reading them.

    adapters: how many of the waiting requests name each LoRA adapter.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.adapters: Counter[str] = Counter()
        self._clock = clock
        self.counters = OwnerCounters()
        self._classes: dict[int, _PriorityClass[Queued]] = {}
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def add(self, sequence: Queued) -> None:
        """Let a sequence wait."""
        priority = sequence.request.priority
        if priority not in self._classes:
            self._classes[priority] = _PriorityClass(self._clock())
        self._classes[priority].add(sequence)
        self.counters.enter(sequence.owner)
        self._count_adapter(sequence.request.adapter, 1)
        self._length += 1

    def remove(self, sequence: Queued) -> None:
        """Remove a sequence. Raises ValueError if it does not wait."""
        priority = sequence.request.priority
        priority_class = self._classes.get(priority)
        if priority_class is None:
            raise ValueError("the sequence does not wait")
        priority_class.remove(sequence)
        if not priority_class.tenants:
            del self._classes[priority]
        self.counters.leave(sequence.owner)
        self._count_adapter(sequence.request.adapter, -1)
        self._length -= 1

    def _count_adapter(self, adapter: str, change: int) -> None:
        if adapter:
            self.adapters[adapter] += change
            if not self.adapters[adapter]:
                del self.adapters[adapter]

    def first(self, without_adapter: bool = False) -> Queued:
        """Return the next sequence. Raises IndexError if none waits.

        without_adapter: consider only sequences that have no adapter.
        """
        classes = {
            priority: priority_class
            for priority, priority_class in self._classes.items()
            if not without_adapter or priority_class.num_without_adapter
        }
        if not classes:
            raise IndexError("no sequence waits")
        now = self._clock()

        def urgency(item: tuple[int, _PriorityClass[Queued]]) -> tuple[int, int]:
            priority, priority_class = item
            return priority - int((now - priority_class.since_s) / AGEING_S), priority

        return min(classes.items(), key=urgency)[1].first(self.counters, without_adapter)

    def admit(self, sequence: Queued, prompt_tokens: int, out_of_order: bool = False) -> None:
        """Remove a sequence that joins the batch, and charge its owner for its prompt.

        prompt_tokens: how many tokens to charge.
        out_of_order: the first sequence cannot be run yet, so its class continues to age.
        """
        if not out_of_order:
            self._classes[sequence.request.priority].since_s = self._clock()
        self.remove(sequence)
        self.counters.charge(sequence.owner, PROMPT_WEIGHT * prompt_tokens)

    def charge_outputs(self, sequence: Queued, tokens: int) -> None:
        """Charge a running sequence's owner for output tokens."""
        self.counters.charge(sequence.owner, OUTPUT_WEIGHT * tokens)


class _PriorityClass(Generic[Queued]):
    """The waiting requests of one priority.

    since_s: when one of them was last admitted, or when the first of them arrived.
    """

    def __init__(self, since_s: float) -> None:
        self.since_s = since_s
        self.num_without_adapter = 0
        self.tenants: dict[str, _TenantQueue[Queued]] = {}

    def add(self, sequence: Queued) -> None:
        queue = self.tenants.setdefault(sequence.request.tenant, _TenantQueue())
        queue.add(sequence)
        self.num_without_adapter += not sequence.request.adapter

    def remove(self, sequence: Queued) -> None:
        queue = self.tenants.get(sequence.request.tenant, _TenantQueue[Queued]())
        queue.remove(sequence)
        self.num_without_adapter -= not sequence.request.adapter
        if not queue.users:
            del self.tenants[sequence.request.tenant]

    def first(self, counters: OwnerCounters, without_adapter: bool) -> Queued:
        """Return the next sequence; of equal counters that of the tenant with fewer requests.

        That tenant has just come.
        """

        def order(head: Queued) -> tuple[int, int, int]:
            tenant = head.request.tenant
            return counters.tenants[tenant], self.tenants[tenant].length, head.arrival

        heads = (
            queue.first(counters.users_of(tenant), without_adapter)
            for tenant, queue in self.tenants.items()
        )
        return min((head for head in heads if head is not None), key=order)


class _TenantQueue(Generic[Queued]):
    """The waiting requests of one tenant and one priority, by user."""

    def __init__(self) -> None:
        self.users: dict[str, list[Queued]] = {}
        self.length = 0

    def add(self, sequence: Queued) -> None:
        queue = self.users.setdefault(sequence.request.user, [])
        insort(queue, sequence, key=_order_in_user)
        self.length += 1

    def remove(self, sequence: Queued) -> None:
        queue = self.users.get(sequence.request.user, [])
        queue.remove(sequence)
        self.length -= 1
        if not queue:
            del self.users[sequence.request.user]

    def first(self, served: VirtualCounters, without_adapter: bool) -> Queued | None:
        """Return the tenant's next sequence; None if each has an adapter and none may."""

        def order(head: Queued) -> tuple[int, int, int]:
            user = head.request.user
            return served[user], len(self.users[user]), head.arrival

        heads = (_head(queue, without_adapter) for queue in self.users.values())
        return min((head for head in heads if head is not None), key=order, default=None)


def _head(queue: list[Queued], without_adapter: bool) -> Queued | None:
    if not without_adapter:
        return queue[0]
    return next((sequence for sequence in queue if not sequence.request.adapter), None)


def _order_in_user(sequence: QueuedRequest) -> tuple[bool, int]:
    return not sequence.has_begun, sequence.arrival
