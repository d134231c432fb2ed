"""Weights in the quantized blocks of a file, kept so until a kernel or torch reads them."""
