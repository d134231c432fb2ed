"""Tools: what a request says of them, how models write their calls, and how those are read."""
