"""The frontend as a process: accepting, draining, threads, status."""
