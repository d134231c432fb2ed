"""Generate load and measure servers (bench/serve.py)."""
