"""The log of every process: safe records, two formats, and limits on repetition."""
