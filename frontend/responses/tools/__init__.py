"""Run tools on the server for responses."""
