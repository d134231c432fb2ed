"""Serve the Responses API: requests run as chats, output as items and events, a store of both."""
