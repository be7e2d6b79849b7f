"""A demo for development: a database of its own, people, a bot, and the server on top."""
