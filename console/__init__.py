"""Tools for operators in a terminal. They know a server by its HTTP routes alone."""
