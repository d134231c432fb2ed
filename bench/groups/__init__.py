"""Measurements of groups that share a pool."""
