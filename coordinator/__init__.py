"""Who is in the pool and in what state; starting, stopping and restarting its processes."""
