"""What each architecture of GGUF files is in transformers: its values, names, changed tensors."""
