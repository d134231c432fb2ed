"""Preparation of models before the pool starts."""
