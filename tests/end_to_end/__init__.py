"""A package, so that pools that its modules share end with its last test, not with the session."""
