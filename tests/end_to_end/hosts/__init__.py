"""Pools on hosts that lack something."""
