"""The web side: Tornado's WebSockets and HTTP endpoints.

It imports `relay` for the rules, and never `postgres`: what it asks of the database it names as a
Protocol.
"""
