"""What the start of a pool does about keys: checks, and keeping them secret."""
