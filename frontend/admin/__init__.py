"""Parts that the admin routes share: results of calls, calls by name, health."""
