"""The shapes of answers: whole ones, and the chunks of streams."""
