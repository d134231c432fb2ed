"""Forward passes by transformers' own model classes, on CPUs and GPUs."""
