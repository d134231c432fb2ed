"""Decisions: the distribution of a model's answer over given options, read and not generated."""
