"""Formats are found in chat templates."""
