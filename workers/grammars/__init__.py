"""Texts that keep to a grammar: compiled beside the engine, as masks over the next tokens."""
