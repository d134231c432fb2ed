"""Parts that several processes share, besides messages and configuration."""
