"""The built-in parsers, by the formats that they read."""
