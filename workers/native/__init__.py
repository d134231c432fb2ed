"""Forward passes compiled to programs for the CPU: captured from a model, run by C++ kernels."""
