"""Responses in a database."""
