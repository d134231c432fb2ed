"""Benchmarks. Results are in docs/benchmarks.md."""
