"""Define the table of batches. Their input, results and output lie in the folder of files."""

from sqlalchemy import BigInteger, Column, Float, Index, Integer, String, Table, Text

from headrace.frontend.store.engine import metadata, tenant_column

# volume: see frontend/files/tables.py. All times: seconds since 1970, by the database's clock.
# owner: the frontend that runs it; null if none does. heartbeat: when that frontend last wrote.
# runs: how often it was taken over, which numbers the files of results; fruitless: how often in a
#   row without a result. in_flight: lines that its owner runs now.
# options: JSON of what its creator asked for. models: JSON list of what its lines name; null before
#   the input is validated. errors: JSON list, or null. expires_at: the end of its window.
# total, completed, failed and the tokens: what is done, as its owner last stored it.
batches = Table(
    "headrace_batches",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("volume", String(32), nullable=False),
    Column("status", String(16), nullable=False),
    Column("created_at", Float, nullable=False),
    Column("expires_at", Float, nullable=False),
    Column("options", Text, nullable=False),
    Column("owner", String(64)),
    Column("heartbeat", Float, nullable=False),
    Column("runs", Integer, nullable=False),
    Column("fruitless", Integer, nullable=False),
    Column("in_flight", Integer, nullable=False),
    Column("models", Text),
    Column("errors", Text),
    Column("in_progress_at", Float),
    Column("finalizing_at", Float),
    Column("completed_at", Float),
    Column("failed_at", Float),
    Column("expired_at", Float),
    Column("cancelling_at", Float),
    Column("cancelled_at", Float),
    Column("output_file_id", String(64)),
    Column("error_file_id", String(64)),
    Column("total", Integer, nullable=False),
    Column("completed", Integer, nullable=False),
    Column("failed", Integer, nullable=False),
    Column("input_tokens", BigInteger, nullable=False),
    Column("cached_tokens", BigInteger, nullable=False),
    Column("output_tokens", BigInteger, nullable=False),
    Column("reasoning_tokens", BigInteger, nullable=False),
    tenant_column(),
    Index("headrace_batches_created", "volume", "created_at", "id"),
    Index("headrace_batches_tenant", "volume", "tenant", "created_at", "id"),
    Index("headrace_batches_status", "volume", "status"),
)
