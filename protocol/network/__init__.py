"""Sockets that clients connect to: their options, TLS, descriptors."""
