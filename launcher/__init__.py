"""The launcher: starts all other processes, holds the HTTP socket, restarts what ends."""
