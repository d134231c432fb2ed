"""The response object, its items and its events."""
