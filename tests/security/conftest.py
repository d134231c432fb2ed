"""Pools that are attacked."""

from tests.end_to_end.conftest import cache_dir, fake_pool, launch

__all__ = ["cache_dir", "fake_pool", "launch"]
