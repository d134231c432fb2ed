"""Comparisons with other projects' files and programs, run by hand."""
