"""Run responses: for a request, in the background, and after a takeover."""
