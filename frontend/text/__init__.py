"""Text to tokens and tokens to text, by the `tokenizers` library alone."""
