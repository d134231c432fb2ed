"""Convert text to tokens and tokens to text, with the `tokenizers` library alone."""
