"""Attention over a paged cache, put in place of the attention of transformers' models."""
