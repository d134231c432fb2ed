"""Count tokens and requests by tenant.

On a server with keys a tenant is that of a key, and users are not counted. Without keys clients
name their tenant themselves (`user`), so the number and the length of labels are bounded here.
"""

import hashlib

from prometheus_client import CollectorRegistry, Counter

from headrace.frontend.metrics.tally import CountTally

# Tenants with labels of their own in one process; a label stays until the process ends.
MAX_TENANTS = 100
MAX_LABEL_CHARS = 64
_DIGEST_CHARS = 8
OTHERS = "other"


class TenantTokens:
    """Counts the prompt tokens and the generated tokens of each tenant.

    Requests without a tenant count under "", so that the sum over tenants is the pool's.
    """

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

    def of(self, tenant: str, named_by_client: bool = True) -> "TenantTally":
        """Return the tally of a tenant's tokens.

        named_by_client: whether there may be any number of such tenants.
        """
        label = _label(tenant)
        tally = self._tallies.get(label)
        if tally is not None:
            return tally
        if named_by_client and len(self._tallies) > MAX_TENANTS:  # + 1 for ""
            self._others = self._others or self._tally(OTHERS)
            return self._others
        self._tallies[label] = tally = self._tally(label)
        return tally

    def _tally(self, label: str) -> "TenantTally":
        prompt = CountTally(self._counter.labels(label, "prompt"))
        generation = CountTally(self._counter.labels(label, "generation"))
        return TenantTally(prompt, generation)


class TenantRequests:
    """Counts the requests of keys by tenant: those that were taken, and those that were refused."""

    def __init__(self, prefix: str, registry: CollectorRegistry) -> None:
        self._taken = Counter(
            f"{prefix}tenant_requests_total",
            "Requests for text by tenant.",
            ("tenant",),
            registry=registry,
        )
        self._refused = Counter(
            f"{prefix}tenant_rate_limited_total",
            "Requests that were refused because a limit of their key was reached, by tenant.",
            ("tenant", "limit"),
            registry=registry,
        )

    def count(self, tenant: str) -> None:
        """Count a request that was taken."""
        self._taken.labels(_label(tenant)).inc()

    def count_refused(self, tenant: str, limit: str) -> None:
        """Count a request that was refused."""
        self._refused.labels(_label(tenant), limit).inc()


class TenantTally:
    """Counts the tokens of one label."""

    def __init__(self, prompt: CountTally, generation: CountTally) -> None:
        self.prompt, self.generation = prompt, generation

    def flush(self) -> None:
        """Update the metrics."""
        self.prompt.flush()
        self.generation.flush()


def _label(tenant: str) -> str:
    """Return the label of a tenant; long names are cut and end with a digest, to stay distinct."""
    if len(tenant) <= MAX_LABEL_CHARS:
        return tenant
    digest = hashlib.sha256(tenant.encode()).hexdigest()[:_DIGEST_CHARS]
    return f"{tenant[: MAX_LABEL_CHARS - _DIGEST_CHARS - 1]}~{digest}"
