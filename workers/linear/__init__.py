"""Linear layers packed, fused and quantized for CPUs."""
