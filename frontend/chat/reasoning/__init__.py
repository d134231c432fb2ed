"""Reasoning: told from the content of answers, and counted."""
