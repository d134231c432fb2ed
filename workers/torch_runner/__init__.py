"""Forward passes with transformers' model classes, on CPUs and GPUs."""
