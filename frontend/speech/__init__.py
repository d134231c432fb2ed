"""From recordings to text: windows to tokens, tokens to segments and words."""
