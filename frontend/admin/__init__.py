"""What the admin routes share: the pool's answers, calls by name, health."""
