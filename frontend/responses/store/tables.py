"""Define the tables of responses.

A response is a row; its events and its journal are stored in batches, rows of a second table.
"""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    String,
    Table,
    Text,
)

from headrace.frontend.store.engine import metadata, tenant_column

# created_at, heartbeat: seconds since 1970, by the database's clock.
# owner: the frontend that runs it; null if none does. attempts: how many runs were started.
# fingerprint: see fingerprint.py; only frontends with the same one can resume it.
# job, inputs, body: JSON, see headrace.frontend.responses.execution.job.
responses = Table(
    "headrace_responses",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("created_at", Float, nullable=False),
    Column("status", String(16), nullable=False),
    Column("background", Boolean, nullable=False),
    Column("owner", String(64)),
    Column("heartbeat", Float, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("fingerprint", String(64), nullable=False),
    Column("previous_id", String(64)),
    Column("job", Text, nullable=False),
    Column("inputs", Text, nullable=False),
    Column("body", Text, nullable=False),
    tenant_column(),
    Index("headrace_responses_created", "created_at"),
    Index("headrace_responses_tenant", "tenant", "created_at"),
    Index("headrace_responses_owner", "owner", "status"),
)

# first: the sequence number of the batch's first event. events, journal: JSON lists.
batches = Table(
    "headrace_response_batches",
    metadata,
    Column(
        "response_id",
        String(64),
        ForeignKey("headrace_responses.id", ondelete="CASCADE"),
        primary_key=True,
    ),
    Column("number", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
    Column("first", BigInteger, nullable=False),
    Column("events", Text, nullable=False),
    Column("journal", Text, nullable=False),
)
