"""Publish the pool state: to frontends, and as the status that systemd shows."""

from collections.abc import Callable

from headrace.coordinator.adapter_manager import AdapterManager
from headrace.coordinator.registry import Registry
from headrace.coordinator.scaling import Scaling
from headrace.protocol.common.pool_status import pool_status
from headrace.protocol.common.sd_notify import Notifier
from headrace.protocol.config import PoolConfig
from headrace.protocol.state import PoolState

TICK_S = 0.05
PUBLISH_AT_LEAST_EVERY_S = 1.0
# How often systemd gets the pool's status.
STATUS_S = 1.0


class StatePublisher:
    """Publishes the state that the parts of the coordinator make up. No clock of its own."""

    def __init__(
        self,
        config: PoolConfig,
        registry: Registry,
        scaling: Scaling,
        adapters: AdapterManager,
        notifier: Notifier,
        publish: Callable[[PoolState], None],
    ) -> None:
        self._config, self._registry = config, registry
        self._scaling, self._adapters = scaling, adapters
        self._notifier, self._publish = notifier, publish
        self._published_at = self._notified_at = 0.0

    def publish_if_due(self, now: float) -> None:
        """Publish changes of routing at once, mere load with the next tick."""
        due = now - self._published_at > (
            TICK_S if self._registry.dirty else PUBLISH_AT_LEAST_EVERY_S
        )
        if due or self._registry.urgent:
            self.publish(now)

    def publish(self, now: float) -> None:
        """Publish the state now, unless the launcher has not reported yet which processes run."""
        if not self._registry.launcher_known:
            return
        state = self._adapters.shown_in(self._registry.state(self._scaling.groups))
        self._publish(state)
        self._published_at = now
        if self._notifier.is_heard and now - self._notified_at > STATUS_S:
            self._notifier.status(pool_status(state, self._config))
            self._notified_at = now
