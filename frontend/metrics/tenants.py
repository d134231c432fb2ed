"""Tokens by tenant, for whoever has to know whose they were.

Who a tenant is, clients say themselves (`user`), so what labels can become is bounded here: how
many there are, and how long one is. A tenant that is told from a secret, such as an API key, must
come here under another name: labels are shown to all who may read metrics.
"""

import hashlib

from prometheus_client import CollectorRegistry, Counter

from headrace.frontend.metrics.tally import CountTally

# Tenants with labels of their own in one process; each label is there until the process ends.
MAX_TENANTS = 100
MAX_LABEL_CHARS = 64
_DIGEST_CHARS = 8
OTHERS = "other"


class TenantTokens:
    """Counters of each tenant: of prompts, and of what was generated. Requests without a tenant
    count under "", so that the sum over tenants is the pool's."""

    def __init__(self, prefix: str, registry: CollectorRegistry) -> None:
        self._counter = Counter(
            f"{prefix}tenant_tokens_total",
            f"Tokens by tenant; tenants beyond {MAX_TENANTS} count as {OTHERS!r}.",
            ("tenant", "kind"),
            registry=registry,
        )
        self._tallies: dict[str, TenantTally] = {}
        self._others: TenantTally | None = None
        self.of("")

    def of(self, tenant: str) -> "TenantTally":
        """Where a tenant's tokens are counted."""
        label = _label(tenant)
        tally = self._tallies.get(label)
        if tally is not None:
            return tally
        if len(self._tallies) > MAX_TENANTS:  # "" takes no tenant's place
            self._others = self._others or self._tally(OTHERS)
            return self._others
        self._tallies[label] = tally = self._tally(label)
        return tally

    def _tally(self, label: str) -> "TenantTally":
        prompt = CountTally(self._counter.labels(label, "prompt"))
        generation = CountTally(self._counter.labels(label, "generation"))
        return TenantTally(prompt, generation)


class TenantTally:
    """The tokens of one label."""

    def __init__(self, prompt: CountTally, generation: CountTally) -> None:
        self.prompt, self.generation = prompt, generation

    def flush(self) -> None:
        """Pass on what has been counted."""
        self.prompt.flush()
        self.generation.flush()


def _label(tenant: str) -> str:
    """A long name is cut; what it is cut by tells it from others that begin alike."""
    if len(tenant) <= MAX_LABEL_CHARS:
        return tenant
    digest = hashlib.sha256(tenant.encode()).hexdigest()[:_DIGEST_CHARS]
    return f"{tenant[: MAX_LABEL_CHARS - _DIGEST_CHARS - 1]}~{digest}"
