"""Tests of what models that transcribe say of themselves."""
