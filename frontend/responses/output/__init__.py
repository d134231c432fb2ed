"""Build the response object, its items and its events."""
