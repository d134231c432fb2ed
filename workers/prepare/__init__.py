"""Conversion of model files, in a process of its own that may import torch."""
