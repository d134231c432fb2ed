"""The database that frontends share: connections, transactions, and the check of its version."""
