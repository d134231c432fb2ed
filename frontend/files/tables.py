"""Define the table of files; their bytes lie in a folder (see folder.py)."""

from sqlalchemy import BigInteger, Column, Float, Index, String, Table, Text

from headrace.frontend.store.engine import metadata, tenant_column

# volume: the folder that holds the bytes; frontends see only files of their own folder.
# created_at, expires_at: seconds since 1970, by the database's clock; the latter may be null.
files = Table(
    "headrace_files",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("volume", String(32), nullable=False),
    Column("created_at", Float, nullable=False),
    Column("expires_at", Float),
    Column("bytes", BigInteger, nullable=False),
    Column("purpose", String(32), nullable=False),
    Column("filename", Text, nullable=False),
    tenant_column(),
    Index("headrace_files_created", "volume", "created_at", "id"),
    Index("headrace_files_tenant", "volume", "tenant", "created_at", "id"),
    Index("headrace_files_expires", "volume", "expires_at"),
)
