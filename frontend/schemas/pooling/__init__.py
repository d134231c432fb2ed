"""Pydantic models of the requests and answers of routes that turn texts into numbers."""
