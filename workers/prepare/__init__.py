"""Conversion of a model's files, in a process of its own that may import torch."""
