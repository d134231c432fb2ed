"""What operators look at in a terminal. It knows the server by its HTTP routes alone."""
