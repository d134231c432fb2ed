"""Peers of bench.speech, the material it measures with, and what it counts."""
