"""The worker process around an engine: messages, calls, sleep, pause, profiles."""
