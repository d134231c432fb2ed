"""Capture a model's forward pass as a graph."""
