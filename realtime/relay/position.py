"""The position of this process in the log: one value, which the hub owns.

The reader reads from it. The hub moves it when everything that a read found has been delivered.
Clients get its text as their cursor.
"""

from typing import NamedTuple

from realtime.relay.cursor import Cursor, Database, encode_cursor


class Position(NamedTuple):
    """How far this process has read the log, and of which database."""

    database: Database
    cursor: Cursor
    text: str
    """The cursor in the form that clients get."""

    @classmethod
    def at(cls, database: Database, cursor: Cursor) -> "Position":
        """The position of one who has seen what the cursor covers."""
        return cls(database, cursor, encode_cursor(database, cursor))

    def encode(self, cursor: Cursor) -> str:
        """Write another cursor of the same database for a client."""
        return encode_cursor(self.database, cursor)
