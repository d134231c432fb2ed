"""The Responses API: from a request to a chat, its answer as items and events, and their store."""
