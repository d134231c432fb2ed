"""Separate reasoning from the content of answers, and count its tokens."""
