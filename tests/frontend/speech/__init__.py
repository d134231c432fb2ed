"""Tests of routes that transcribe recordings."""
