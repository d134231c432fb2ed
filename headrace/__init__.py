"""Headrace, a server for language models: the one import root of its packages.

The packages are links to the top-level folders of the repository, so that the code is found by its
folder and imported as `headrace.frontend`, `headrace.workers` and so on.
"""
