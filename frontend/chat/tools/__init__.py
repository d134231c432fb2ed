"""Tools: which ones a request offers, how models write calls of them, and how calls are parsed."""
