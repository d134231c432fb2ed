"""Measure an engine against the limits of the machine (bench/roofline.py)."""
