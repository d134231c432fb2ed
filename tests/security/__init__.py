"""Attacks on servers of this kind, and the defences against each."""
