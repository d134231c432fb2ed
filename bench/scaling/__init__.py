"""What bench.autoscale_sim is made of."""
