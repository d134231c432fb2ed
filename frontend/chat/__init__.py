"""Chats to prompts."""
