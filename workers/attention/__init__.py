"""Attention over a paged cache, in place of the attention of transformers' models."""
