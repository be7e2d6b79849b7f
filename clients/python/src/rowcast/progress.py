"""How far the stream has come: the cursor to resume with, and the ids that are known. No I/O.

Kept by `keeper` at the socket's end. An event counts (`took`) only once it waits for the
application, so that a client that is interrupted in between asks for it again.
"""

from __future__ import annotations

from dataclasses import replace

from rowcast.events import Event, resync, sendable_cursor


class Progress:
    """One stream over any number of connections.

    Args:
        cursor: where to begin; None: with what is live.
        remember_ids: of how many events.
    """

    def __init__(self, cursor: str | None, remember_ids: int) -> None:
        self.cursor = cursor
        self._most = remember_ids
        self._ids: dict[str, None] = {}  # a set that knows its order
        self._is_resuming = False
        self._has_begun = False
        self._user: str | None = None  # whose connection the application was told of last

    def begin(self) -> str:
        """A connection is being opened: the cursor to send, empty where there is none."""
        # What came since the last connection is lost where that had no cursor.
        self._is_resuming = bool(self.cursor) or self._has_begun
        return self.cursor or ""

    def greeted(self, event: Event) -> list[Event]:
        """What a `connection_established` amounts to, in the order of handing over.

        `resync` comes first: if the second is never handed over, the old cursor brings both again.
        """
        self._has_begun = True
        data = event.data if isinstance(event.data, dict) else {}
        is_another = self._user is not None and _user_of(event) not in (None, self._user)
        if data.get("recovered") is True and not is_another:
            # A replay may be cut short: until its own cursors arrive, the old one is what holds.
            return [event]
        here = replace(event, cursor=sendable_cursor(data))
        # A server that says nothing of a cursor that it was sent has recovered nothing. And where
        # another person has signed in, what was recovered continues a state that is not theirs.
        is_lost = self._is_resuming or data.get("recovered") is not None
        return [resync(data.get("reason")), here] if is_lost else [here]

    def knows(self, event: Event) -> bool:
        """Whether an event with this id was handed over before."""
        return event.id is not None and event.id in self._ids

    def took(self, event: Event) -> None:
        """Note that the event will be handed over."""
        if event.cursor is not None:
            self.cursor = event.cursor
        if event.type == "connection_established":
            self._user = _user_of(event) or self._user
        if event.type == "resync":
            self._ids.clear()  # ids of another database may mean other events
        elif event.id is not None:
            self._ids[event.id] = None
            if len(self._ids) > self._most:
                del self._ids[next(iter(self._ids))]


def _user_of(greeting: Event) -> str | None:
    user = greeting.field("user_id")
    return user if isinstance(user, str) else None
