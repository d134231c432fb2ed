"""What several processes share besides messages and configuration."""
