"""The routes of models that turn texts into numbers."""
