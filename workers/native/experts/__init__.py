"""Mixtures of experts in programs: what routers and experts compute, and their packed weights."""
