"""From a validated request to texts: what the workers are asked, and what becomes of it."""
