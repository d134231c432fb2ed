"""The command line: flags, the configuration file, and the configuration made from them."""
