"""Models that pool: the engine that runs texts whole, and what turns their tokens into numbers."""
