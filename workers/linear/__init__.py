"""Linear layers of a model, packed, fused and quantized for CPUs."""
