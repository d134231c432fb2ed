"""The HTTP API, one file per part of it; each makes a blueprint of a context."""
