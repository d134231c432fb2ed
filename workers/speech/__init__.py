"""Models that transcribe: an encoder that hears a window of a recording, and a decoder that writes."""
