"""Structured outputs: from a request's fields to the grammar that a worker enforces."""
