"""Tell from a model's chat template how the model writes tool calls and reasoning."""
