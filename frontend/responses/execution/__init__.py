"""Running responses: here, in the background, and after a takeover."""
