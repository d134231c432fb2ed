"""Tests of the scripts that are programs in Python."""
