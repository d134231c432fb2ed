"""The launcher: starts every other process, holds the HTTP socket, and restarts what ends."""
