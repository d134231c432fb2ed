"""Simulate autoscaling (bench.autoscale_sim)."""
