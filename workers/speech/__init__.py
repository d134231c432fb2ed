"""Models that transcribe: an encoder hears a window of a recording, a decoder writes."""
