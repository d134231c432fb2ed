"""Limits of keys: requests and tokens a minute and requests at once, over all frontends."""
