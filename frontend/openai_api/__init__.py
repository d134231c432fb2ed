"""Serialize generations as OpenAI's API does: full bodies and the chunks of streams."""
