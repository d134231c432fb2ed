"""Translate Anthropic's Messages API: its requests to chats, chat responses to its messages."""
