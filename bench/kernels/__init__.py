"""Measure the CPU kernels by themselves."""
