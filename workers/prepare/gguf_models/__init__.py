"""What each architecture of GGUF files is in transformers: configuration, names, changed tensors."""
