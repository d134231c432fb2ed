"""The command line: flags, the configuration file, and what they resolve to."""
