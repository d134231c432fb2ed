"""Everything that is text: HTTP, validation, chat templates, tokens to text, SSE."""
