"""A pool under load whose processes are killed and stopped; `python -m tests.chaos --help`."""
