"""Sampling the next tokens of a batch from its logits."""
