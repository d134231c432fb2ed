"""Tools that the server runs itself, for responses."""
