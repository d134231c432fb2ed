"""Request bodies and answers of routes that transcribe recordings."""
