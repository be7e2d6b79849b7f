"""Watching a bot from a terminal."""
