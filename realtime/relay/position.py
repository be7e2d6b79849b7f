"""The position of this process in the log: one value, which the hub owns. And which log that is.

The reader reads from the position. The hub moves it when everything that a read found has been
delivered. Clients get its text as their cursor. All who ask the log share the lineage.
"""

from realtime.relay.cursor import Anchor, Cursor, Database, Signer, newer


class Position:
    """A cursor that clients may be given; its text differs from topic to topic."""

    __slots__ = ("_body", "cursor", "signer")

    def __init__(self, cursor: Cursor, signer: Signer) -> None:
        self.cursor = cursor
        self.signer = signer
        self._body: str | None = ""
        """The part of the text that is the same on every topic; empty until it is asked for."""

    def text(self, topic: str) -> str | None:
        """The cursor's text for one topic; None where there is none (see `Signer.write`)."""
        body = self._body_of_text()
        return None if body is None else self.signer.sign(body, topic)

    @property
    def has_text(self) -> bool:
        """Whether there is a text at all."""
        return self._body_of_text() is not None

    def _body_of_text(self) -> str | None:
        if self._body == "":
            self._body = self.signer.body(self.cursor)
        return self._body

    def naming(self, newest: Anchor | None) -> "Position":
        """The same claim, by one who has seen that row too."""
        return Position(self.cursor.naming(newest), self.signer)

    def claiming(self, cursor: Cursor, newest: Anchor | None = None) -> "Position":
        """The claim of another cursor, by one who has seen what was seen here."""
        seen = newer(self.cursor.anchor, newest)
        return Position(cursor.naming(seen), self.signer)


class Lineage:
    """Which log this process reads, and the newest row that any of its statements has returned.

    Each statement that looks at the log asks whether that row is still there. If it is not, this is
    another history: ids that were seen may belong to other rows now.
    """

    def __init__(self, position: Position) -> None:
        self.signer = position.signer
        """The signer that writes and reads the log's cursors."""
        self.newest = position.cursor.anchor

    @property
    def database(self) -> Database:
        """The database that has the log."""
        return self.signer.database

    def saw(self, row: Anchor | None) -> None:
        """A statement has returned a row; the row seen before was there for it."""
        self.newest = newer(self.newest, row)

    def start_over(self, position: Position) -> None:
        """Forget everything that was seen before."""
        self.signer = position.signer
        self.newest = position.cursor.anchor
