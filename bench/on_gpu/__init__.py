"""Measurements on a GPU, for `bench.gpu`."""
