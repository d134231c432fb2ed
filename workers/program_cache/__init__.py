"""Compiled programs on disk, so that a later start neither captures nor checks a model again."""
