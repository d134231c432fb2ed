"""The measurements of bench/roofline.py."""
