"""The way from a frontend to the workers."""
