"""Grammars of outputs, compiled off the engine thread, and their masks over the next tokens."""
