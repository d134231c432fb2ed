"""What measures speed. Results are in docs/benchmarks.md."""
