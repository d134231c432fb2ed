"""The frontend process: accepting connections, draining, threads, status."""
