"""The whole path against real servers."""
