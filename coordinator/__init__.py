"""Track the pool's processes and their states; decide when they start, stop and restart."""
