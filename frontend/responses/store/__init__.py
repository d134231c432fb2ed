"""Store responses in a database that frontends share."""
