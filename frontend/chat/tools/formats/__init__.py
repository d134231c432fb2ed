"""The parsers that come with the server, by the formats that they read."""
