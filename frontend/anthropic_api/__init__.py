"""Anthropic's Messages API: its requests as chats, and what chats answer in its shapes."""
