"""Name the services that keep what clients store, without importing them."""

from pathlib import Path
from typing import TYPE_CHECKING

from quart import Quart

from headrace.frontend.context import Context
from headrace.frontend.store.lazy_service import LazyService

if TYPE_CHECKING:  # imported when they are first needed
    from headrace.frontend.batches.service import BatchService
    from headrace.frontend.responses.service import ResponsesService

LazyBatches = LazyService["BatchService"]
LazyResponses = LazyService["ResponsesService"]


def lazy_batches(context: Context, app: Quart) -> LazyBatches:
    """Return what loads the service of files and batches."""

    def load() -> "BatchService":
        from headrace.frontend.batches.service import BatchService

        return BatchService(context, app)

    return LazyService(load, (context.config.files / "batches").is_dir)


def lazy_responses(context: Context) -> LazyResponses:
    """Return what loads the service of responses and conversations."""

    def load() -> "ResponsesService":
        from headrace.frontend.responses.service import ResponsesService

        return ResponsesService(context)

    def may_have_work() -> bool:
        """Return whether the store may hold responses: a SQLite file that is absent has none."""
        scheme, _, path = context.config.response_store.partition(":///")
        return scheme != "sqlite" or Path(path).exists()

    return LazyService(load, may_have_work)
