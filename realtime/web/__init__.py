"""How events reach people: Tornado's sockets and pages.

Imports `relay` for the rules, never `postgres`: what it asks of a database it names as a Protocol.
"""
