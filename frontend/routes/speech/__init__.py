"""Routes that transcribe recordings."""
