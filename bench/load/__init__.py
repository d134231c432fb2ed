"""The parts of the load generator (bench/serve.py)."""
