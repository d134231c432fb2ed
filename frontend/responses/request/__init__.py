"""A Responses request, translated to a chat request."""
