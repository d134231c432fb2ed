"""LoRA adapters: small changes to a model's linear layers, many of them over one base model."""
